from .backbones import check_backbone as check_backbone
from .batches import make_batch as make_batch
from .batches import make_event_info as make_event_info
from .batches import make_statistics as make_statistics
from .dialects import check_dialect as check_dialect
from .heads import check_head as check_head
from .readers import check_reader as check_reader
from .writers import check_writer as check_writer
