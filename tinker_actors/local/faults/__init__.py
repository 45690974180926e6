"""Faults on order: what goes wrong with which requests, so that recovery can be tested.

```text
plan         faults as data, from a file or a control request
switches     which of them fire at a request: they match, count and draw
sight        what they see of a request
injection    what they do to its connection and its answer
damage       what they do to what the service keeps
```

Every fault that fires leaves an entry in the step log, unless the disk is full or the server is killed just then.
"""
