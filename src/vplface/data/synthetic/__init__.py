"""Generated faces: a data set without real people, for tests, first steps and controlled experiments."""

from vplface.data.synthetic.faces import SyntheticFaces
from vplface.data.synthetic.sheet import contact_sheet, write_sheet
from vplface.data.synthetic.write import write_synthetic

__all__ = ["SyntheticFaces", "contact_sheet", "write_sheet", "write_synthetic"]
