"""C99 that trains on a microcontroller with the same bits as `ezo.int8`: see docs/export.md.

`write` makes the project, of what `from_run` reads or of one's own; `load` reads what the device
has learnt back, `save` sends it a state.
``runtime`` holds the C: it is also the shortest complete statement of the integer method.
"""

from ezo.export.arena import Arena, Way
from ezo.export.state import load, save
from ezo.export.trained import from_run
from ezo.export.write import write

__all__ = ["Arena", "Way", "from_run", "load", "save", "write"]
