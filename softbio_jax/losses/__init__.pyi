from .balancing import BALANCERS as BALANCERS
from .balancing import Balancer as Balancer
from .balancing import BalancingConfig as BalancingConfig
from .balancing import total as total
from .masked import MaskedMean as MaskedMean
from .masked import cross_entropy as cross_entropy
from .masked import masked_mean as masked_mean
