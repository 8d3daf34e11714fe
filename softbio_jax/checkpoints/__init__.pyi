from .manager import CheckpointManager as CheckpointManager
from .manifest import Damaged as Damaged
from .pretrained import load_pretrained as load_pretrained
from .pretrained import save_pretrained as save_pretrained
