"""The threat model: who is trusted with what, what a leaked secret is worth, and how much is taken in.

Who is trusted
==============

==================  ====================================================================================
definition module   everything: it is code that nodes, beats and the doctor import and run
whoever has admin   everything in Redis: `deploy/redis/users.acl` has a user for each role, admin beside them
nodes               all work of all colonies of their Redis, the model keys, the accounts' secrets. Not tokens
beat                its own schedule, and the tick
gateway             what a producer may, conversations, triggers; reads the hashes of tokens, and the secrets
                    of webhooks that come in. It decides who may do what over HTTP
producers           to spawn, stop and wait; they see tasks, reports and events of all workers
intake clients      to hand in tasks, and to read the results of tasks whose ids they know
operators           the whole store, and nothing that belongs to Redis' administrator
Flower              to see ids, agents and states, and to stop agents. No prompts, no results
COLONY_STATE_DIR    whoever may write there: to say how nodes ended. The default is its user's alone
agents (models)     nothing: what a model says is data. It can call the tools of its agent, with arguments
                    that fit their schemas, and act through the accounts that its `AgentSpec` lets it
callers, webhooks   nothing: signature or token first, then sizes, then the pipeline
==================  ====================================================================================

A Redis without passwords trusts whoever reaches it with all of this (`EmbeddedRedis` listens on loopback).

What a leaked secret is worth
=============================

*A node's Redis password*: every task, conversation and report; forged reports; other work for the fleet.
*A producer's*: all tasks, reports and events; new work, which costs money; any worker stopped; records
forged (a script can write whatever its user may). Not conversations, tokens, the server or other keys.
*An intake client's*: new work, and the results of tasks whose ids are known. The one to hand out.
*A gateway token*: its scopes on one colony, at its rate, until it ends or is revoked. Redis holds its hash.
It reads nothing of another: triggers that watch another colony's events are not put over HTTP, only declared
in a definition, or put by who has Redis.
*A webhook's secret*: that trigger, fired with chosen input: once per id, never more than `max_concurrent`.
*Flower's login*: states and names; agents stopped, nodes shut down (not with COLONY_FLOWER_READ_ONLY).
*A model key or an account*: what the provider lets it. On nodes alone, by reference (``env:``, ``file:``,
vaults): never in Redis, messages, events or logs; redacted from what tools and providers say.

*A callback's secret*, an ``env:`` or ``file:`` of the nodes that `on_complete` names: who names it and the
URL gets signatures made with it, of a body that is partly theirs. Whoever trusts that secret may then take
them for the fleet, and a weak one can be guessed from them. So over HTTP and the intake only those may be
named that COLONY_CALLBACK_SECRETS lists (``env:HOOK_*``, ``env:COLONY_HOOK_*``): put nothing else there, and
give receivers that must not be confused secrets of their own. Who has a producer's or an operator's
password of Redis may name any.

Change any by naming the new beside the old: ACL users take two passwords, webhooks up to four secrets.

Prompt injection
================

Tasks, webhook payloads, event data, tool results and web pages may hold instructions. Colony marks what
came in as data and checks sizes, but a model may follow it. So give an agent the tools that its input
deserves, and no others; let tools check who they act for (`ToolContext.data`), not what the model claims;
name `accounts`; bound what a tree may do (`max_depth`, `max_descendants`, `max_requests`, deadlines); put
stages of your own before it (`colony.pipeline`). A trigger's `${webhook…}` reaches the prompt of the agent
that it names, which should be one with little power. Loops of triggers are refused by lineage.

What is taken in
================

==========================  ====================================================  =========================
from                        at most                                               beyond
==========================  ====================================================  =========================
files of commands, stdin    64 MiB (`colony.sizes`)                               refused
tasks of a spawn            10,000 in a call; `max_task_bytes`, `max_data_bytes`  refused, nothing accepted
ids, keys and labels        1,000 characters; intake 255, HTTP 256                refused
deadlines, time-outs        ten years; as points in time, 1970 to 9000            refused; the model is told
priorities                  -10,000 to 10,000                                     refused
reason of a stop            1,000 characters                                      refused
HTTP requests               COLONY_GATEWAY_MAX_BODY_BYTES, …_MAX_URL_BYTES,       413, 414, 431, 408, 429,
                            …_MAX_HEADER_BYTES, _BODY_TIMEOUT, _RATE, _MAX_…      503
webhooks in                 COLONY_GATEWAY_HOOK_RATE of a trigger, well signed    429
                            `max_bytes` of the trigger, 50 headers of 1 KB        413
intake messages             COLONY_MAX_MESSAGE_BYTES, then as a spawn             refused unread, set aside
workers that wait           `max_pending`                                         refused
doorbells                   ids; what is malformed is set aside                   counted, `colony doctor`
model answers               4 MiB, also while they stream                         the worker fails
tool arguments              the answer's bound, and the tool's schema             the model is told
tool results, progress      `max_tool_result_bytes`                               cut, the model is told
reports                     `max_report_bytes`                                    the model is told
words of a failed model     2,000 bytes                                           cut
trees                       `max_depth`, `max_descendants`, 64 in a call          the model is told
triggers, subscriptions     256 KiB each; 20,000 and 100 of them                  refused
events                      `max_history` are kept; live ones are not             a `gap` is announced
what is set aside           1,000 messages of 2,000 characters                    the oldest go
rate limit keys             10,000 buckets                                        new keys share one
answers to webhooks out     status and headers alone are read                     the rest is not read
secrets                     64 KiB                                                an error
names                       colony, agent, trigger: 1 to 64 letters, digits       refused
==========================  ====================================================  =========================

Not bounded here: requests without a good token. Each costs a look into Redis and a count (``http_401``,
``webhook_404``); tokens have 256 bits, so there is nothing to guess. The gateway cannot tell the askers
apart: behind a proxy all come from one address, and whom an `X-Forwarded-For` names is a claim that anybody
can make. So bound them per address where the address is known, in the proxy (``limit_req`` of nginx, say),
and watch the counts. A webhook that is not rightly signed costs the reading of its body (`max_bytes`) and
takes up nothing of its trigger's rate.

Nor: whoever may write to a colony's queue, or to Redis itself, can fill its memory; `maxmemory`
with `noeviction` turns that into an error for new work. An HTTP answer of a model's server is read whole
by its client library before it is measured, within the request's time limit.
"""
