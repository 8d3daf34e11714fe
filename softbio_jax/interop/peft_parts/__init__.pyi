from .config import PeftConfig as PeftConfig
from .config import read_config as read_config
from .config import to_json as to_json
from .names import Place as Place
from .names import module_name as module_name
from .names import place as place
from .names import tower_of_bare as tower_of_bare
