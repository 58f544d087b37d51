"""The letters that shapes are written with, one letter for one meaning, in every docstring and line comment.

========  ==================================================================================================
letter    meaning
========  ==================================================================================================
``A``     ages of a latent that have a bias of their own in the attention reader
``B``     streams side by side in one batch
``C``     latents that a queue keeps (``capacity_latents``), a bound: ``<=C``; latents are counted, not turns
``D``     size of an embedding
``F``     size of what a reranker is told of a token: hidden states of some layers, side by side
``H``     hidden size of the backbone
``K``     latents that one turn adds to the queue (``num_latents``)
``L``     tokens of a whole row: memory, text and memory queries together
``M``     latents now in a queue, at most ``C``
``N``     rows of one forward: turns of one or several streams; ``N'`` are those of other processes
``P``     tokens that were run before, and that a row continues
``Q``     queries asked of the streams of a batch
``S``     size of one stored latent: ``H`` for the prefix reader, memory layers times ``H`` for the attention reader
``T``     tokens of a turn
``V``     size of the vocabulary
``W``     places of the memory that a turn may see
========  ==================================================================================================

Sizes that no letter stands for are written as words, such as ``heads`` or ``turns``; ``n`` is the number of things that
the line names, and ``d`` the size of an attention head.
"""
