from .config import AssignmentConfig as AssignmentConfig
from .head import AssignmentHead as AssignmentHead
from .selection import Candidates as Candidates
from .selection import Selection as Selection
from .selection import exact as exact
from .selection import greedy as greedy
