from . import clip as clip
from . import dinov2 as dinov2
from . import dinov3 as dinov3
from . import siglip2 as siglip2
