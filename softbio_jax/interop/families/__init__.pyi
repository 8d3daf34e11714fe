from . import clip as clip
from . import dinov2 as dinov2
from . import dinov3 as dinov3
from . import siglip2 as siglip2
from .clip import OFFICIAL_TO_TRANSFORMERS as OFFICIAL_TO_TRANSFORMERS
