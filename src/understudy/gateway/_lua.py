"""The script that the shared server runs."""

#: `guard.admit` for leases, on the server's clock; one call charges every key or none. For each key: what is given back
#: and since when (as `guard.refund`), rows asked, more wanted, the allowance. Returns each usage before the charge.
SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
local now = tonumber(ARGV[2])
if not now then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end
local num = function(x) return string.format('%.17g', x) end
local out, all, pass = {'no', num(now)}, {}, true
for i = 2, #KEYS do
  local a = 7 * (i - 2) + 2
  local back, since, rows, more = tonumber(ARGV[a+1]), tonumber(ARGV[a+2]), tonumber(ARGV[a+3]), tonumber(ARGV[a+4])
  local rate, day, month = tonumber(ARGV[a+5]), tonumber(ARGV[a+6]), tonumber(ARGV[a+7])
  local u = redis.call('HMGET', KEYS[i], 'at', 'level', 'day', 'day_used', 'month', 'month_used')
  for j = 1, 6 do u[j] = tonumber(u[j] or 0) end
  if back > 0 then
    if rate then u[2] = math.max(u[2] - math.max(back - math.max(now - since, 0) * rate / 60, 0), 0) end
    if since >= u[3] then u[4] = math.max(u[4] - back, 0) end
    if since >= u[5] then u[6] = math.max(u[6] - back, 0) end
  end
  local before = {unpack(u)}
  for j = 1, 6 do out[#out+1] = num(u[j]) end
  if u[3] + 86400 - now <= 0 or u[4] == 0 then u[3] = now; u[4] = 0 end
  if u[5] + 2592000 - now <= 0 or u[6] == 0 then u[5] = now; u[6] = 0 end
  local room = math.huge
  if rate then
    if now > u[1] then u[2] = math.max(u[2] - (now - u[1]) * (rate / 60), 0); u[1] = now end
    room = rate - u[2]
  end
  if day then room = math.min(room, day - u[4]) end
  if month then room = math.min(room, month - u[6]) end
  if rows > room then pass = false end
  all[i] = {before, u, rows, math.max(math.min(more, math.floor((room - rows) / 8)), 0), rate, back}
end
for i = 2, #KEYS do
  local before, u, rows, more, rate, back = unpack(all[i], 1, 6)
  local n = 0
  if pass then n = rows + more end
  if n == 0 then u = before end
  if rate then u[2] = u[2] + n end
  u[4] = u[4] + n; u[6] = u[6] + n
  out[#out+1] = num(n)
  if n > 0 or back > 0 then
    redis.call('HSET', KEYS[i], 'at', num(u[1]), 'level', num(u[2]), 'day', num(u[3]), 'day_used', num(u[4]),
      'month', num(u[5]), 'month_used', num(u[6]))
    redis.call('EXPIRE', KEYS[i], 2678400)
  end
end
if pass then out[1] = 'yes' end
return out
"""

#: Put entries at the end of the stream. Their ids are 1, 2, 3 ... and the second, so that whoever reads knows what is
#: missing. KEYS: stream, facts. ARGV: bytes that the stream may hold, seconds it lives, entries. Returns the last
#: number; 0 where it is full; -1 where it has to begin anew, as when somebody else wrote to it.
APPEND = """
local facts = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'size')
if not facts[1] then return -1 end
local last, size = tonumber(facts[2] or 0), tonumber(facts[3] or 0)
if size > tonumber(ARGV[1]) then return 0 end
local second = redis.call('TIME')[1]
for i = 3, #ARGV do
  last = last + 1; size = size + #ARGV[i]
  local done = redis.pcall('XADD', KEYS[1], string.format('%.0f-%s', last, second), 'd', ARGV[i])
  if type(done) == 'table' and done.err then redis.call('DEL', KEYS[1], KEYS[2]); return -1 end
end
redis.call('HSET', KEYS[2], 'last', string.format('%.0f', last), 'size', string.format('%.0f', size))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return last
"""

#: A machine says that it is there and how far it has saved; what everybody has saved goes from the stream once it is
#: `keep` seconds old. KEYS: stream, facts, members. ARGV: machine, number, 1 where its copy is not whole, an epoch
#: should there be none, seconds until a member is silent, until it is gone, `keep`, bytes of the stream, seconds it
#: lives. Returns epoch, last number, first number there (0: none), members heard, others of them whose copy is whole.
REPORT = """
if redis.call('HSETNX', KEYS[2], 'epoch', ARGV[4]) == 1 then redis.call('DEL', KEYS[1]) end
local facts = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'size')
local last, size, now = tonumber(facts[2] or 0), tonumber(facts[3] or 0), tonumber(redis.call('TIME')[1])
local silent, gone, keep, full = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. now)
local heard, whole, low = 0, 0, last
local members = redis.call('HGETALL', KEYS[3])
for i = 1, #members, 2 do
  local at, part, seen = string.match(members[i+1], '^(%d+) (%d) (%d+)$')
  local age = now - tonumber(seen or 0)
  if not at or age > gone or (size > full / 2 and age > 3 * silent) then redis.call('HDEL', KEYS[3], members[i])
  else
    low = math.min(low, tonumber(at))
    if age <= silent then
      heard = heard + 1
      if part == '0' and members[i] ~= ARGV[1] then whole = whole + 1 end
    end
  end
end
local first, more = 0, true
while more do
  local some = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 100)
  more = #some == 100
  for _, entry in ipairs(some) do
    local n, second = string.match(entry[1], '^(%d+)-(%d+)$')
    if tonumber(n) > low or (now - tonumber(second) < keep and size <= full / 2) then
      first = tonumber(n); more = false; break
    end
    size = math.max(size - #entry[2][2], 0)
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
redis.call('HSET', KEYS[2], 'size', string.format('%.0f', size))
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[9]) end
return {facts[1], string.format('%.0f', last), string.format('%.0f', first), heard, whole}
"""

#: Compare and set: a response is put in force where the last one of its step and holder is still the one that the
#: caller knows. KEYS: responses, alerts, then one per response. ARGV, for each: id, the id known, seconds, response,
#: alert.
CLAIM = """
local granted = {}
for i = 3, #KEYS do
  local a = 5 * (i - 3)
  local last = redis.call('GET', KEYS[i])
  if last and last ~= ARGV[a+2] then granted[#granted+1] = 0
  else
    redis.call('SET', KEYS[i], ARGV[a+1], 'EX', ARGV[a+3])
    redis.call('HSET', KEYS[1], ARGV[a+1], ARGV[a+4])
    if ARGV[a+5] ~= '' then redis.call('HSET', KEYS[2], ARGV[a+1], ARGV[a+5]) end
    granted[#granted+1] = 1
  end
end
return granted
"""
