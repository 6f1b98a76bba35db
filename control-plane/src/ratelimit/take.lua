-- Takes from all counters, or from none where one of them has no room.
-- KEYS: the counters. ARGV, five for each: length of the window in ms, limit, hits, 1 to give back, 1 for the shadow.
-- Answers the time in ms, then for each counter its window, the hits in it, those of the window before, and 1 if the hits fit.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known, asks, refused = {}, {}, false

for i, key in ipairs(KEYS) do
  local at = 5 * (i - 1)
  local ask = {
    length = tonumber(ARGV[at + 1]),
    limit = tonumber(ARGV[at + 2]),
    hits = tonumber(ARGV[at + 3]),
    back = ARGV[at + 4] == '1',
    shadow = ARGV[at + 5] == '1',
  }
  if not known[key] then
    local stored = redis.call('HMGET', key, 'w', 'c', 'p')
    local counter = {w = tonumber(stored[1]) or 0, c = tonumber(stored[2]) or 0, p = tonumber(stored[3]) or 0}
    local window = math.floor(now / ask.length)
    if window == counter.w + 1 then
      counter.w, counter.c, counter.p = window, 0, counter.c
    elseif window > counter.w then
      counter.w, counter.c, counter.p = window, 0, 0
    end
    known[key] = counter
  end
  local counter = known[key]
  local covered = ask.length - now % ask.length
  local used = math.floor(counter.p * covered / ask.length) + counter.c
  ask.fits = ask.back or used + ask.hits <= ask.limit
  if not ask.fits and not ask.shadow then
    refused = true
  end
  asks[i] = ask
end

local answer = {now}
for i, key in ipairs(KEYS) do
  local ask, counter = asks[i], known[key]
  if not refused then
    if ask.back then
      counter.c = math.max(0, counter.c - ask.hits)
    else
      counter.c = counter.c + ask.hits
    end
    redis.call('HSET', key, 'w', counter.w, 'c', counter.c, 'p', counter.p)
    -- What is counted now still counts in the next window.
    redis.call('PEXPIRE', key, 2 * ask.length)
  end
  answer[#answer + 1] = counter.w
  answer[#answer + 1] = counter.c
  answer[#answer + 1] = counter.p
  answer[#answer + 1] = ask.fits and 1 or 0
end
return answer
