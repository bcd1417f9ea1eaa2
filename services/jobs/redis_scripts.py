"""What a Redis or Valkey server does with its jobs, each in one piece of work.

A job's name is "<tenant>:<job id>". The keys, which scripts make up from KEYS[1], "<prefix>:":

    <prefix>:job:<name>                  hash: a job's record; of a tombstone, what it was known by
    <prefix>:events:<name>               stream: a job's events by their sequence numbers
    <prefix>:queue                       jobs that can be claimed, by class, deadline, submission
    <prefix>:held                        jobs that cannot, by when their lease or delay ends
    <prefix>:ended                       jobs that have ended, by when
    <prefix>:tombstones                  names of jobs that are no longer kept, since when
    <prefix>:tenant:<tenant>             a tenant's jobs by submission
    <prefix>:request:<tenant>:<id>       the name of the job that a client_request_id means
    <prefix>:totals                      counts of submissions, and of bytes, all and of ended jobs
    <prefix>:open                        hash: how many jobs that have not ended, by tenant
    <prefix>:news                        channel: names of jobs to which something happened, "work"
                                         when one was queued, and "claims:<name>" of jobs that were
                                         taken from whoever had claimed them

Times are milliseconds since the epoch. Each script's first arguments are the time, or -1 for the
server's own, and the most bytes of a job's events. All but the submission run on a server that is
full, too: they let jobs come to their end.
"""

from typing import Final

from services.jobs.record import EVENT_OVERHEAD_BYTES

_BASE: Final = """
local prefix, now, event_limit = KEYS[1]:sub(1, -2), tonumber(ARGV[1]), tonumber(ARGV[2])
local queue, held, ended = prefix .. ':queue', prefix .. ':held', prefix .. ':ended'
local tombstones, totals = prefix .. ':tombstones', prefix .. ':totals'
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number) return string.format('%.0f', number) end
local function job_of(name) return prefix .. ':job:' .. name end
local function events_of(name) return prefix .. ':events:' .. name end
local function number_at(key, field) return tonumber(redis.call('HGET', key, field) or 0) end
local function tell(name) redis.call('PUBLISH', prefix .. ':news', name) end

-- Counts a tenant's jobs that have not ended.
local function count_open(tenant, number)
  if redis.call('HINCRBY', prefix .. ':open', tenant, number) == 0 then
    redis.call('HDEL', prefix .. ':open', tenant)
  end
end

local function grow(name, bytes)
  redis.call('HINCRBY', job_of(name), 'size', whole(bytes))
  redis.call('HINCRBY', totals, 'bytes', whole(bytes))
end

-- Adds the events ARGV[from] and after; returns the last sequence number.
local function append(name, from)
  local job, events, grown = job_of(name), events_of(name), 0
  local last, first = number_at(job, 'last'), number_at(job, 'first')
  for i = from, #ARGV do
    last = last + 1
    redis.call('XADD', events, whole(last) .. '-0', 'time', whole(now), 'data', ARGV[i])
    grown = grown + #ARGV[i] + EVENT_OVERHEAD
  end
  local bytes = number_at(job, 'event_bytes') + grown
  while bytes > event_limit and first < last do
    local oldest = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', events, oldest[1])
    local freed = #oldest[2][4] + EVENT_OVERHEAD
    bytes, grown, first = bytes - freed, grown - freed, first + 1
  end
  redis.call('HSET', job, 'last', whole(last), 'first', whole(first), 'event_bytes', whole(bytes))
  grow(name, grown)
  tell(name)
  return last
end

local function enqueue(name)
  local job = job_of(name)
  redis.call('HSET', job, 'state', 'queued', 'worker', '')
  local at = redis.call('HMGET', job, 'class', 'place')
  redis.call('ZADD', queue, at[1], at[2])
  tell('work')
end

local function end_job(name, state, outcome)
  local job = job_of(name)
  redis.call('ZREM', held, name)
  local at = redis.call('HMGET', job, 'place', 'tenant')
  redis.call('ZREM', queue, at[1])
  count_open(at[2], -1)
  grow(name, #outcome)
  redis.call(
    'HSET', job, 'state', state, 'worker', '', 'outcome', outcome, 'ended', whole(now))
  redis.call('HINCRBY', totals, 'ended_bytes', whole(number_at(job, 'size')))
  redis.call('ZADD', ended, whole(now), name)
  tell(name)
end

local function forget(name)
  local request = redis.call('HGET', job_of(name), 'request')
  if request ~= '' then redis.call('DEL', request) end
  redis.call('DEL', job_of(name))
  redis.call('ZREM', tombstones, name)
end

-- Leaves a tombstone; returns the bytes that this made free.
local function expire(name, most_tombstones)
  local job = job_of(name)
  local known = redis.call('HMGET', job, 'size', 'tenant', 'id', 'request', 'fingerprint')
  redis.call('UNLINK', job, events_of(name))
  redis.call(
    'HSET', job, 'state', 'expired', 'tenant', known[2], 'id', known[3], 'request', known[4],
    'fingerprint', known[5])
  redis.call('ZREM', ended, name)
  redis.call('ZREM', prefix .. ':tenant:' .. known[2], name)
  redis.call('ZADD', tombstones, whole(now), name)
  redis.call('HINCRBY', totals, 'bytes', '-' .. known[1])
  redis.call('HINCRBY', totals, 'ended_bytes', '-' .. known[1])
  while redis.call('ZCARD', tombstones) > most_tombstones do
    forget(redis.call('ZRANGE', tombstones, 0, 0)[1])
  end
  tell(name)
  return tonumber(known[1])
end
""".replace("EVENT_OVERHEAD", str(EVENT_OVERHEAD_BYTES))

RENEW: Final = (
    "#!lua flags=allow-oom"
    + _BASE
    + """
local name = ARGV[3]
local at = redis.call('HMGET', job_of(name), 'attempt', 'state', 'last')
if at[1] ~= ARGV[4] then return {'lost'} end
if at[2] == 'cancelled' then return {'cancelled'} end
if at[2] ~= 'running' then return {'lost'} end
redis.call('ZADD', held, whole(now + ARGV[5]), name)
return {'written', tonumber(at[3])}
"""
)
"""Arguments: the job's name, the claim's token, lease in milliseconds. No write: it may overlap
with one, and can be repeated."""

# Of a claim: the job's name, the token, a word that only this write and its repetitions have, and
# completed steps or nothing.
_WRITE: Final = (
    "#!lua flags=allow-oom"
    + _BASE
    + """
local name, token, write = ARGV[3], ARGV[4], ARGV[5]
local job = job_of(name)
local at = redis.call('HMGET', job, 'attempt', 'state', 'write', 'last')
if at[1] ~= token then return {'lost'} end
-- It was carried out, but the answer did not arrive.
if at[3] == write then return {'written', tonumber(at[4])} end
if at[2] == 'cancelled' then return {'cancelled'} end
if at[2] ~= 'running' then return {'lost'} end
redis.call('HSET', job, 'write', write)
if ARGV[6] ~= '' then
  if tonumber(ARGV[6]) > number_at(job, 'steps') then redis.call('HSET', job, 'fruitless', 0) end
  redis.call('HSET', job, 'steps', ARGV[6])
end
"""
)

SUBMIT: Final = (
    "#!lua"
    + _BASE
    + """
local most_bytes, most_tombstones, bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local tenant, id, request_id, class, deadline = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local job_bytes, fingerprint, parameters, priority = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local max_queue, max_run, max_open = ARGV[15], ARGV[16], ARGV[17]
local name = tenant .. ':' .. id
local request = request_id == '' and '' or prefix .. ':request:' .. tenant .. ':' .. request_id
local known = request ~= '' and redis.call('GET', request)
if not known and redis.call('EXISTS', job_of(name)) == 1 then known = name end
if known then return {'known', redis.call('HGETALL', job_of(known))} end

if max_open ~= '' and number_at(prefix .. ':open', tenant) >= tonumber(max_open) then
  return {'quota'}
end
local all, of_ended = number_at(totals, 'bytes'), number_at(totals, 'ended_bytes')
if all - of_ended + bytes > most_bytes then return {'full', all - of_ended} end
while all + bytes > most_bytes do
  all = all - expire(redis.call('ZRANGE', ended, 0, 0)[1], most_tombstones)
end
local number = redis.call('HINCRBY', totals, 'submissions', 1)
redis.call(
  'HSET', job_of(name), 'tenant', tenant, 'id', id, 'request', request, 'request_id', request_id,
  'fingerprint', fingerprint, 'parameters', parameters, 'priority', priority, 'class', class,
  'deadline', deadline, 'place', deadline .. string.format(':%016.0f:', number) .. name,
  'attempt', 0, 'created', whole(now), 'first', 1, 'last', 0, 'max_queue', max_queue,
  'max_run', max_run)
count_open(tenant, 1)
if request ~= '' then redis.call('SET', request, name) end
redis.call('ZADD', prefix .. ':tenant:' .. tenant, number, name)
grow(name, tonumber(job_bytes))
append(name, 18)
enqueue(name)
return {'new', redis.call('HGETALL', job_of(name))}
"""
)
"""Arguments: most bytes and tombstones of all, the submission's bytes with its events, tenant, job
id, client_request_id, class, deadline in 16 digits, the job's bytes without events, fingerprint,
parameters, priority, milliseconds to wait and to run at most, or nothing, the most open jobs or
nothing, events. A server that is full refuses it whole."""

CLAIM: Final = (
    "#!lua flags=allow-oom"
    + _BASE
    + """
local due = redis.call('ZRANGE', held, '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, 100)
for _, name in ipairs(due) do
  redis.call('ZREM', held, name)
  enqueue(name)
  tell('claims:' .. name)
end
local place = redis.call('ZRANGE', queue, 0, 0)[1]
if not place then return {} end
local name = string.match(place, '^%d+:%d+:(.*)$')
local job = job_of(name)
redis.call('ZREM', queue, place)
redis.call('HINCRBY', job, 'attempt', 1)
redis.call('HINCRBY', job, 'fruitless', 1)
redis.call('HSETNX', job, 'started', whole(now))
redis.call('HSET', job, 'state', 'running', 'worker', ARGV[3])
redis.call('ZADD', held, whole(now + ARGV[4]), name)
return redis.call('HGETALL', job)
"""
)
"""Arguments: worker, lease in milliseconds."""

APPEND: Final = (
    _WRITE
    + """
return {'written', append(name, 7)}
"""
)
"""Arguments: of a claim, events."""

ADVANCE: Final = (
    _WRITE
    + """
local earlier = redis.call('HGET', job, ARGV[7]) or ''
redis.call('HSET', job, ARGV[7], ARGV[8], 'fruitless', 0)
grow(name, #ARGV[8] - #earlier)
return {'written', append(name, 9)}
"""
)
"""Arguments: of a claim, the output's field, the output, events."""

COUNT_FAILURE: Final = (
    _WRITE
    + """
redis.call('HINCRBY', job, ARGV[7], 1)
return {'written', tonumber(at[4])}
"""
)
"""Arguments: of a claim, the failures' field."""

GIVE_BACK: Final = (
    _WRITE
    + """
local delay = tonumber(ARGV[7])
redis.call('HSET', job, 'fruitless', 0)
if delay > 0 then
  redis.call('HSET', job, 'state', 'queued', 'worker', '')
  redis.call('ZADD', held, whole(now + delay), name)
else
  redis.call('ZREM', held, name)
  enqueue(name)
end
return {'written', tonumber(at[4])}
"""
)
"""Arguments: of a claim, delay in milliseconds."""

FINISH: Final = (
    _WRITE
    + """
local last = append(name, 9)
end_job(name, ARGV[7], ARGV[8])
return {'written', last}
"""
)
"""Arguments: of a claim, state, outcome, events."""

CANCEL: Final = (
    "#!lua flags=allow-oom"
    + _BASE
    + """
local name = ARGV[3]
local state = redis.call('HGET', job_of(name), 'state')
if state == 'queued' or state == 'running' then
  append(name, 4)
  end_job(name, 'cancelled', '')
  tell('claims:' .. name)
end
return redis.call('HGETALL', job_of(name))
"""
)
"""Arguments: the job's name, its event."""

SWEEP: Final = (
    "#!lua flags=allow-oom"
    + _BASE
    + """
local ended_until, expired_until, most_bytes = now - ARGV[3], now - ARGV[4], tonumber(ARGV[5])
local most_tombstones, gone = tonumber(ARGV[6]), 0
for _, name in ipairs(
  redis.call('ZRANGE', tombstones, '-inf', whole(expired_until), 'BYSCORE', 'LIMIT', 0, 100)) do
  forget(name)
  gone = gone + 1
end
for _ = 1, 100 do
  local oldest = redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES')
  if #oldest == 0 then break end
  if tonumber(oldest[2]) > ended_until and number_at(totals, 'bytes') <= most_bytes then break end
  expire(oldest[1], most_tombstones)
  gone = gone + 1
end
return gone
"""
)
"""Arguments: milliseconds that ended jobs and tombstones are kept, most bytes and tombstones of
all. Does a part of the work; returns how many went, 0 when none is left."""
