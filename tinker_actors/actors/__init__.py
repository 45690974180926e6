"""The tree's children: one file per kind of actor. Messages first, then the actor."""
