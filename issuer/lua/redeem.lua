-- Hands out codes to a call's worth of requests of one partition, or says why not.
--
-- Why a script: the checks (epoch, replay, batch, limits, stock, backlog) and the writes (event, pop, answer, window,
-- counters) of every request must be one atomic step; no other process may get between them.
-- Nothing is written unless something is granted or replayed. All reads and decisions come before the first write.
-- The first write is XADD: it is refused as a whole when memory is short. The second is LPOP.
--
-- KEYS: 1 state, 2 stream, 3 kept call, then B batches, P pools, P code lists, N windows, then idempotency keys
--       (a window that is the state key itself means: no customer, no limits)
-- ARGV: 1 epoch, 2 call id, 3 deadline (ms, Redis time), 4 B, 5 P, 6 batch index of each pool (2 bytes each),
--       7 ms that an answer is kept for its idempotency key, then N requests:
--       pool index (2 bytes), idempotency index or 0 (2 bytes), who (bytes that go into the event as they are)
-- Returns: {STALE_EPOCH, epoch} | {TOO_LATE, now_ms} | {DONE, result, host_ms} | {REPEATED, result}
--          result = now_ms RS answers joined by US RS event data;  answer = one of
--          GRANTED code, REPLAYED code, KEY_REUSED, UNKNOWN_BATCH, ENDED, PAUSED, NOT_STARTED, REBUILDING,
--          LIMIT_REACHED retry_at_ms, SOLD_OUT, REFILLING, BACKLOG_FULL, INCONSISTENT
-- Cost: per call 9 commands and 5 for each pool it touches; per request with a limit 1 GET and, if granted, 1 SET.

local call, sub, byte = redis.call, string.sub, string.byte
local RS, US, STAMP = '\30', '\31', 13
local CALL_KEPT_MS = 30000

local state = call('HMGET', KEYS[1], 'epoch', 'max_backlog', 'backlog', 'clock')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
local kept = call('GET', KEYS[3])
if kept then return {'REPEATED', kept} end

local time = call('TIME')
local host_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = math.max(host_ms, tonumber(state[4]))
if now > tonumber(ARGV[3]) then return {'TOO_LATE', string.format('%.0f', now)} end
local stamp = string.format('%013.0f', now)
local room = tonumber(state[2]) - tonumber(state[3])
call('XLEN', KEYS[2])

local batch_count, pool_count, first_request = tonumber(ARGV[4]), tonumber(ARGV[5]), 7
local request_count = #ARGV - first_request
local window_base = 3 + batch_count + 2 * pool_count
local key_base = window_base + request_count

local batches = {}
for b = 1, batch_count do
  local f = call('HMGET', KEYS[3 + b], 'state', 'paused', 'starts_at_ms', 'ends_at_ms', 'limits', 'rebuilding')
  local batch = {limits = {}, longest_ms = 0, most = 0}
  if not f[1] then batch.refusal = 'UNKNOWN_BATCH'
  elseif f[1] ~= 'open' or (f[4] ~= '' and now >= tonumber(f[4])) then batch.refusal = 'ENDED'
  elseif f[2] == '1' then batch.refusal = 'PAUSED'
  elseif f[3] ~= '' and now < tonumber(f[3]) then batch.refusal = 'NOT_STARTED'
  elseif f[6] ~= '' then batch.refusal = 'REBUILDING'
  else
    for max, window_ms in string.gmatch(f[5], '(%d+):(%d+)') do
      max, window_ms = tonumber(max), tonumber(window_ms)
      batch.limits[#batch.limits + 1] = {max, window_ms}
      batch.most = math.max(batch.most, max)
      -- A window of 0 lasts for ever, and so does the log.
      if window_ms == 0 then batch.for_ever = true end
      batch.longest_ms = math.max(batch.longest_ms, window_ms)
    end
  end
  batches[b] = batch
end

local wanted = {}
for p = 1, pool_count do wanted[p] = 0 end
for r = 1, request_count do
  local hi, lo = byte(ARGV[first_request + r], 1, 2)
  local p = hi * 256 + lo
  wanted[p] = wanted[p] + 1
end

local pools = {}
for p = 1, pool_count do
  local hi, lo = byte(ARGV[6], 2 * p - 1, 2 * p)
  local batch = batches[hi * 256 + lo]
  local meta = call('HMGET', KEYS[3 + batch_count + p], 'id', 'issued', 'loaded', 'total')
  local pool = {batch = batch, taken = 0, codes = {}, who = {}}
  if meta[1] then
    pool.id, pool.issued, pool.total = meta[1], tonumber(meta[2]), tonumber(meta[4])
    if not batch.refusal then
      pool.codes = call('LRANGE', KEYS[3 + batch_count + pool_count + p], 0, wanted[p] - 1)
      -- LLEN = loaded - issued holds unless somebody changed the data by hand.
      pool.broken = #pool.codes ~= math.min(wanted[p], tonumber(meta[3]) - pool.issued)
    end
  end
  pools[p] = pool
end

local answers, logs, given, granted, replayed = {}, {}, {}, 0, 0
local new_logs, new_answers = {}, {}

-- The answer kept for an idempotency key: pool id, seq, ms, code. false: none.
local function kept_answer(key)
  local answer = given[key]
  if answer == nil then
    answer = call('GET', key)
    given[key] = answer
  end
  return answer
end

-- nil: within all limits; otherwise the time (ms) at which the last of them lets the customer in again, '' for never.
local function limit_refusal(batch, log)
  local retry_at_ms, refused = 0, false
  local count = #log / STAMP
  for _, limit in ipairs(batch.limits) do
    local max, window_ms = limit[1], limit[2]
    if count >= max then
      if window_ms == 0 then return '' end
      local from = (count - max) * STAMP
      local leaves_at_ms = tonumber(sub(log, from + 1, from + STAMP)) + window_ms
      if leaves_at_ms > now then
        refused = true
        retry_at_ms = math.max(retry_at_ms, leaves_at_ms)
      end
    end
  end
  if refused then return string.format('%.0f', retry_at_ms) end
end

local function decide(r)
  local request = ARGV[first_request + r]
  local p1, p2, k1, k2 = byte(request, 1, 4)
  local pool, key = pools[p1 * 256 + p2], nil
  if k1 + k2 > 0 then
    key = KEYS[key_base + k1 * 256 + k2]
    local answer = kept_answer(key)
    if answer then
      local pool_id, code = string.match(answer, '^(%d+) %d+ %d+ (.*)$')
      if pool_id ~= pool.id then return 'KEY_REUSED' end
      replayed = replayed + 1
      return 'REPLAYED ' .. code
    end
  end

  local batch = pool.batch
  if batch.refusal then return batch.refusal end
  local window, log = KEYS[window_base + r], nil
  if batch.most > 0 and window ~= KEYS[1] then
    log = logs[window]
    if log == nil then
      log = call('GET', window) or ''
      logs[window] = log
    end
    local retry_at_ms = limit_refusal(batch, log)
    if retry_at_ms then return 'LIMIT_REACHED ' .. retry_at_ms end
  end
  if not pool.id then return 'SOLD_OUT' end
  if pool.broken then return 'INCONSISTENT' end
  local code = pool.codes[pool.taken + 1]
  if not code then
    if pool.issued + pool.taken >= pool.total then return 'SOLD_OUT' end
    return 'REFILLING'
  end
  if granted >= room then return 'BACKLOG_FULL' end

  granted = granted + 1
  pool.taken = pool.taken + 1
  pool.who[pool.taken] = sub(request, 5)
  if log then
    log = sub(log .. stamp, -batch.most * STAMP)
    logs[window] = log
    new_logs[window] = batch
  end
  if key then
    local answer = pool.id .. ' ' .. string.format('%.0f', pool.issued + pool.taken) .. ' ' .. stamp .. ' ' .. code
    given[key] = answer
    new_answers[key] = answer
  end
  return 'GRANTED ' .. code
end

for r = 1, request_count do answers[r] = decide(r) end

local data = {}
for p = 1, pool_count do
  local pool = pools[p]
  if pool.taken > 0 then
    data[#data + 1] = string.format('R %s %.0f %d\n', pool.id, pool.issued + 1, pool.taken)
    for i = 1, pool.taken do
      local code = pool.codes[i]
      data[#data + 1] = string.char(math.floor(#code / 256), #code % 256)
      data[#data + 1] = code
      data[#data + 1] = pool.who[i]
    end
  end
end
data = table.concat(data)
local result = stamp .. RS .. table.concat(answers, US) .. RS .. data
local backlog = string.format('%.0f', tonumber(state[3]) + granted)

if granted > 0 then
  call('XADD', KEYS[2], '*', 'v', '1', 'e', ARGV[1], 't', stamp, 'c', ARGV[2], 'n', granted, 'd', data)
  for p = 1, pool_count do
    if pools[p].taken > 0 then call('LPOP', KEYS[3 + batch_count + pool_count + p], pools[p].taken) end
  end
  call('SET', KEYS[3], result, 'PX', CALL_KEPT_MS)
  for key, answer in pairs(new_answers) do call('SET', key, answer, 'PX', ARGV[7]) end
  for window, batch in pairs(new_logs) do
    if batch.for_ever then call('SET', window, logs[window])
    else call('SET', window, logs[window], 'PX', batch.longest_ms) end
  end
  for p = 1, pool_count do
    if pools[p].taken > 0 then call('HINCRBY', KEYS[3 + batch_count + p], 'issued', pools[p].taken) end
  end
  call('HSET', KEYS[1], 'backlog', backlog, 'clock', stamp)
elseif replayed > 0 then
  -- A write, so that a WAIT after a replay waits for everything before it.
  call('HSET', KEYS[1], 'clock', stamp)
end
return {'DONE', result, string.format('%.0f', host_ms)}
