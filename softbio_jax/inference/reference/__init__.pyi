from .check import check_logits as check_logits
from .check import check_tensor as check_tensor
from .preprocessing import describe as describe
from .write import write_reference as write_reference
