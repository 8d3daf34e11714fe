from . import duplicates as duplicates
from .findings import audit as audit
from .page import as_html as as_html
