"""AdvrBD inside BackdoorBench (github.com/SCLBD/BackdoorBench, v2.2): nothing in the core imports this package.

The toolbox is CC BY-NC 4.0 and none of it is here: every function works on the user's checkout.
"""
