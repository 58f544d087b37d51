"""The letters that shapes are written with, one letter for one meaning, in every docstring and line comment.

========  ==================================================================================================
letter    meaning
========  ==================================================================================================
``B``     streams (or rows) side by side in one batch
``N``     rows of one forward: turns of one or several streams
``T``     tokens of a turn
``K``     latents that one turn adds to the queue (``num_latents``)
``M``     latents now in a queue, at most ``C``
``C``     latents that a queue keeps (``capacity_latents``); a number of latents, not of turns
``H``     hidden size of the backbone
``S``     size of one stored latent: ``H`` for the prefix reader, memory layers times ``H`` for the attention reader
``D``     size of an embedding
========  ==================================================================================================
"""
