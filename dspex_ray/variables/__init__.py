"""Variables of a program: what may be changed about it, in which space, under which constraints."""
