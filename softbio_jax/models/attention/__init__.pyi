from .attend import cross_attention as cross_attention
from .attend import self_attention as self_attention
from .choice import Choice as Choice
from .choice import Shape as Shape
from .choice import choose as choose
