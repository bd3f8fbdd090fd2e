"""BUL: from a business query to a finished document, through the cache.

``request`` checks what comes in, ``order`` says what the model will be told and under which key
the answer is kept, ``pipeline`` gets the answer, ``press`` turns it into files, and
``service`` puts them together with tasks and writers.
"""
