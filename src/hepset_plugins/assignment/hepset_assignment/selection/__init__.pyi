from .candidates import FORBIDDEN as FORBIDDEN
from .candidates import Candidates as Candidates
from .candidates import dense_candidates as dense_candidates
from .select import Selection as Selection
from .select import exact as exact
from .select import greedy as greedy
