from .of_head import HeadJudge as HeadJudge
from .of_head import judge_head as judge_head
from .of_head import separations_of as separations_of
