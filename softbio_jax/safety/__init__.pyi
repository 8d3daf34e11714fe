from .archives import unzip as unzip
from .damage import reason as reason
from .damage import refusal as refusal
from .locks import Lock as Lock
from .locks import hold as hold
from .untrusted import PixelBudget as PixelBudget
from .untrusted import check_archive as check_archive
from .untrusted import read_json as read_json
