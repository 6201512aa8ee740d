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
