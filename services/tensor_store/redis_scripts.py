"""What a Redis or Valkey server does with its list of entries, each in one piece of work.

Nobody sees the list between two of its states, and nobody reads all of it: it may be long. Keys are
those that RedisEntries names, in its order: sizes, used, total.
"""

from typing import Final

_LIST: Final = """
local sizes, used, total = KEYS[1], KEYS[2], KEYS[3]
local prefix = ARGV[1]

local function drop(name)
  local size = tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('DEL', prefix .. name)
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', used, name)
  return size
end

-- The total, unless the list came to harm: what has no size or no time of use is dropped then.
local function held()
  local known, count = redis.call('GET', total), redis.call('HLEN', sizes)
  if count == redis.call('ZCARD', used) and (known or count == 0) then
    return count == 0 and 0 or tonumber(known)
  end
  for _, name in ipairs(redis.call('ZRANGE', used, 0, -1)) do
    if redis.call('HEXISTS', sizes, name) == 0 then drop(name) end
  end
  local sum, listed = 0, redis.call('HGETALL', sizes)
  for i = 1, #listed, 2 do
    if redis.call('ZSCORE', used, listed[i]) then
      sum = sum + tonumber(listed[i + 1])
    else
      drop(listed[i])
    end
  end
  return sum
end

local function note(bytes)
  if bytes <= 0 and redis.call('HLEN', sizes) == 0 then
    redis.call('DEL', total)
  else
    redis.call('SET', total, string.format('%d', bytes), 'KEEPTTL')
  end
end
"""

WRITE: Final = (
    "#!lua\n"
    + _LIST
    + """
local name, size, limit, now, life = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local bytes = held() - drop(name)
while bytes + size > limit do
  local last = redis.call('ZPOPMIN', used)
  if #last == 0 then break end
  bytes = bytes - drop(last[1])
end
for i = 7, #ARGV do redis.call('HSET', prefix .. name, tostring(i - 7), ARGV[i]) end
redis.call('HSET', sizes, name, size)
redis.call('ZADD', used, now, name)
note(bytes + size)
for _, key in ipairs({prefix .. name, sizes, used, total}) do redis.call('PEXPIRE', key, life) end
return 1
"""
)
"""Arguments: prefix of entries' keys, name, bytes, most bytes of all, time, life in milliseconds,
and the chunks. Evicts what was not used for longest. A server that is full refuses it whole."""

# Also on a server that is full: it makes room.
REMOVE: Final = (
    "#!lua flags=allow-oom\n"
    + _LIST
    + """
local bytes, gone = held(), 0
for i = 2, #ARGV do gone = gone + drop(ARGV[i]) end
note(bytes - gone)
return gone
"""
)
"""Arguments: prefix of entries' keys, names. Returns the bytes."""

CLEAR: Final = (
    "#!lua flags=allow-oom\n"
    + _LIST
    + """
local bytes = held()
for _, name in ipairs(redis.call('HKEYS', sizes)) do drop(name) end
note(0)
return bytes
"""
)
"""Argument: prefix of entries' keys. Returns the bytes."""

FORGET: Final = (
    "#!lua flags=allow-oom\n"
    + _LIST
    + """
local bytes = held()
local idle = redis.call('ZRANGE', used, '-inf', ARGV[2], 'BYSCORE')
for _, name in ipairs(idle) do bytes = bytes - drop(name) end
note(bytes)
return #idle
"""
)
"""Arguments: prefix of entries' keys, the time since when others were used. Returns how many."""
