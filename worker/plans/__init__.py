"""The search for the fastest way of running a model that gives nearly the same results, for items that ask for FAST.

The worker has a `planner`. It asks the `cache` for what was found before. Otherwise it starts `child`, a process of its
own that climbs the ladder of `rungs`: it builds each (`assembly`), holds it against EXACT (`deviation`) on pictures
that it draws (`examples`), and measures it. `regions` says which parts of a model a plan replaces.
"""
