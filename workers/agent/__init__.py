"""The agent loop: one worker, from where its conversation ends to a report or a pause.

It knows values, a model, tools and a `Journal`; neither Redis nor Celery. The way of a turn:

    run         what a slice is run with (AgentRun)          outcome     how it ended
    loop        restore ▸ act on the last answer ▸ limits ▸ ask ▸ write ▸ act …
    transcript  stored parts ⇄ messages of the model         prompts     how it begins
    asking      one question: time limit, retries, stream    report      how it ends, by rule
      model       from a model string to a model             limits      what ends it early
      failures    what an error means, in words              checkpoints what goes with an answer
      streaming   text as it comes                           cost        its price
    tool_calls  the calls of an answer, in groups, each result written
      execution   one call: time limit, context, whatever the tool does
      threads     where synchronous tools run                results     what the model is shown

What fails:

    model busy or away        asked again with back-off, within retries and deadline; then `failed`
    model refuses             `failed` at once, with the provider's words and the setting to look at
    tool raises, hangs, …     the model is told; the worker and the node go on
    crash between two writes  the next slice does what is left: an answer is never asked for again,
                              an open call is repeated only if its tool says that it may be
    taken over (StaleToken), stopped (cancelled)   passes through; no call is left running
"""
