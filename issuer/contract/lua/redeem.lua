-- Decides the requests of one call: issues codes, grants uses of coupons, or returns the reason of a refusal.
--
-- A coupon is a batch with one pool and no list of codes: its uses are numbered as seqs are, and nothing is popped.
--
-- Why a script: the checks (epoch, replay, batch, limits, stock, backlog) and the writes (event, pop, answer, window,
-- counters) of every request must be one atomic step, so that no other process acts between them. A script is isolated,
-- but not rolled back. Therefore everything is read and decided, and every argument of the writes is computed, before
-- the first write; only the id of the stream entry comes from that write itself. A refusal writes nothing. A replay or a
-- repeat is answered also when memory is short: it only sets an expiry again, which makes it a write that a WAIT behind
-- it can wait for.
--
-- KEYS: 1 state, 2 stream, 3 kept call, then B batches, P pools, P lists of codes (none named twice), N windows, then
--       idempotency keys (the state key as a window: anonymous, no limits)
-- ARGV: 1 epoch, 2 call id, 3 deadline (ms, clock of the Redis host, at most 5 s ahead), 4 serial floor, 5 beat floor,
--       6 ms for which an answer is kept under its idempotency key, 7 batch index of each pool (2 bytes each, in the
--       order in which the batches are named), 8 of each request the pool index (2 bytes; 0x8000: the caller sees a
--       batch only where it has this pool, 0x4000: a use of a coupon, 0x2000: a look at a coupon) and the idempotency
--       index or 0 (2 bytes), then N requests: for a coupon the folded code of the request and the product or nothing
--       (each with 2 bytes of length before it), who (bytes that become part of the event as they are)
-- Returns: {STALE_EPOCH, epoch} | {BEHIND, serial, beat} | {TOO_LATE, host_ms} | {DONE, result, data, host_ms} |
--          {REPEATED, result, data}
--          data = that of the event, '' if there is none (any more);
--          result = head RS id of the stream entry ('' if nothing was granted) RS answers joined by US RS details
--          joined by US;
--          head = now_ms SP epoch SP serial of the first fact (if there is none: of the next one) SP number of facts;
--          detail = pool id SP call id SP number of the terms SP terms, once for all uses of a coupon in the call;
--          which = its place, from 1;
--          fact = seq SP ms SP epoch SP serial, of the grant that is repeated; serial 0: this very call granted it;
--          answer = one of
--          GRANTED code, REPLAYED pool id SP fact SP code, KEY_REUSED, UNKNOWN_BATCH, ENDED, PAUSED, NOT_STARTED,
--          REBUILDING, LIMIT_REACHED retry_at_ms, SOLD_OUT, REFILLING, BACKLOG_FULL, INCONSISTENT, WRONG_PRODUCT,
--          USED which SP number, USED_BEFORE which SP fact, USABLE left SP terms
-- Cost: 6 commands, 1 for each batch, 5 for each pool and 2 for each coupon. Windows and kept answers add 2 reads for up
--       to 2,000 of them, and 1 write each; with MSETEX 1 write for all answers and 1 for the windows of each batch.

-- This script is most of what Redis does. What each request reads is local. Whole numbers are formatted by %d (exact up to
-- 2^53), at a fraction of what %.0f or a number in a concatenation costs. A new string costs more than a place in a table:
-- arguments are used as they are, and what becomes one string is concatenated once.
local KEYS, ARGV = KEYS, ARGV
local call, sub, byte, format, concat = redis.call, string.sub, string.byte, string.format, table.concat
local floor, max, min = math.floor, math.max, math.min
local RS, US, STAMP = '\30', '\31', 13
-- unpack has room for about 8,000 values. Pieces keep a call of any size correct.
local PIECE = 2000
-- A call is kept for longer than its deadline can be ahead, by the same clock: a repeat is recognised or too late.
local CALL_KEPT_MS, FARTHEST_DEADLINE_MS = 30000, 5000
-- Expiry uses the time at which the script began, and TIME may be later: no window may expire before its end.
local WINDOW_SLACK_MS = 1000
-- The place of `d` among the fields of an entry.
local DATA_AT = 14
-- MSETEX: Valkey 9.1 and Redis 8.4. (REDIS_VERSION_NUM of Valkey is 7.2. fakeredis has neither number.)
local HAS_MSETEX = (redis.VALKEY_VERSION_NUM or 0) >= 0x090100 or (redis.REDIS_VERSION_NUM or 0) >= 0x080400

local state = call('HMGET', KEYS[1], 'epoch', 'max_backlog', 'backlog', 'clock', 'serial', 'beat')
if state[1] ~= ARGV[1] then return {'STALE_EPOCH', state[1] or ''} end
-- The caller has seen more of this epoch than these data have: they are older ones that were put back.
local serial = tonumber(state[5])
if serial < tonumber(ARGV[4]) or (state[6] ~= ARGV[5] and tonumber(state[6]) < tonumber(ARGV[5])) then
  return {'BEHIND', state[5], state[6]}
end
local kept = call('GET', KEYS[3])
if kept then
  call('PEXPIRE', KEYS[3], CALL_KEPT_MS)
  -- The event is stored once, in the stream; the kept call has its id. An entry that is no longer there is in Postgres.
  local id = string.match(kept, '^[%d ]+\30([^\30]*)\30')
  local entry = id ~= '' and call('XRANGE', KEYS[2], id, id)[1]
  return {'REPEATED', kept, entry and entry[2][DATA_AT] or ''}
end

local time = call('TIME')
local host_ms, deadline_ms = time[1] * 1000 + floor(time[2] / 1000), tonumber(ARGV[3])
local host = format('%d', host_ms)
if host_ms > deadline_ms or deadline_ms > host_ms + FARTHEST_DEADLINE_MS then return {'TOO_LATE', host} end
local now = max(host_ms, tonumber(state[4]))
local stamp = format('%013d', now)
local backlog = tonumber(state[3])
local room = tonumber(state[2]) - backlog

local pool_count, first_request = #ARGV[7] / 2, 8
local request_count, batch_count, batch_of = #ARGV - first_request, 0, {}
for p = 1, pool_count do
  local hi, lo = byte(ARGV[7], 2 * p - 1, 2 * p)
  batch_of[p] = hi * 256 + lo
  batch_count = max(batch_count, batch_of[p])
end
local pool_base = 3 + batch_count
local list_base = pool_base + pool_count
local window_base = list_base + pool_count
local key_base = window_base + request_count

local batches = {}
for b = 1, batch_count do
  local f = call('HMGET', KEYS[3 + b], 'state', 'paused', 'starts_at_ms', 'ends_at_ms', 'limits', 'rebuilding',
    'coupon')
  -- `touched`: windows that this call changes, each followed by its new value.
  local batch, longest_ms, unbounded = {limits = {}, most = 0, touched = {}}, 0, false
  if not f[1] then batch.refusal = 'UNKNOWN_BATCH'
  elseif f[1] ~= 'open' or (f[4] ~= '' and now >= tonumber(f[4])) then batch.refusal = 'ENDED'
  elseif f[2] == '1' then batch.refusal = 'PAUSED'
  elseif f[3] ~= '' and now < tonumber(f[3]) then batch.refusal = 'NOT_STARTED'
  elseif f[6] ~= '' then batch.refusal = 'REBUILDING'
  elseif f[5] ~= '' then
    for most, window_ms in string.gmatch(f[5], '(%d+):(%d+)') do
      most, window_ms = tonumber(most), tonumber(window_ms)
      batch.limits[#batch.limits + 1] = {most, window_ms}
      batch.most = max(batch.most, most)
      -- A window of 0 has no end: its log never expires.
      if window_ms == 0 then unbounded = true end
      longest_ms = max(longest_ms, window_ms)
    end
    -- From `now`, not from the host's clock, which may have stepped back.
    if not unbounded then batch.expires_at_ms = format('%d', now + longest_ms + WINDOW_SLACK_MS) end
  end
  if f[7] then
    -- As put_batch.lua stores it: total uses, number of the terms, folded code ('': not compared), product, terms.
    local total, terms, code, product, text = string.match(f[7], '^(%d+)\31(%d+)\31([^\31]*)\31([^\31]*)\31(.*)$')
    batch.coupon = {total = tonumber(total), terms = terms, code = code, product = product, text = text}
  end
  batches[b] = batch
end

local pools, named = {}, {}
for p = 1, pool_count do
  local key, batch = KEYS[pool_base + p], batches[batch_of[p]]
  if named[key] then return redis.error_reply('ERR a pool is named twice: its codes would be issued twice') end
  named[key] = true
  local meta = call('HMGET', key, 'id', 'issued', 'loaded', 'total')
  -- `parts`: what becomes its part of the event's data, from the second on; the first is its head. `keys`: by place among
  -- the grants of the pool, the idempotency key of that grant.
  pools[p] = {
    batch = batch, coupon = batch.coupon, wanted = 0, taken = 0, parts = {''}, keys = {}, id = meta[1],
    issued = meta[1] and tonumber(meta[2]), loaded = meta[3], total = meta[1] and tonumber(meta[4]),
  }
end

-- By request: its pool, its window (nil: no limits apply), its idempotency key (nil: none), what it wants of a coupon
-- ('use' or 'look'; nil: it wants a code). `names`: the windows and idempotency keys to read.
local pool_of, window_of, key_of, bound, of_coupon, names = {}, {}, {}, {}, {}, {}
for r = 1, request_count do
  local p1, p2, k1, k2 = byte(ARGV[8], 4 * r - 3, 4 * r)
  if p1 > 31 then
    if p1 > 127 then p1, bound[r] = p1 - 128, true end
    if p1 > 63 then p1, of_coupon[r] = p1 - 64, 'use' end
    if p1 > 31 then p1, of_coupon[r] = p1 - 32, 'look' end
  end
  local pool, window = pools[p1 * 256 + p2], KEYS[window_base + r]
  pool.wanted = pool.wanted + 1
  pool_of[r] = pool
  if pool.batch.most > 0 and window ~= KEYS[1] then
    window_of[r] = window
    names[#names + 1] = window
  end
  if k1 + k2 > 0 then
    local key = KEYS[key_base + k1 * 256 + k2]
    key_of[r] = key
    names[#names + 1] = key
  end
end

-- By key: a window (the log of a customer's redemption times), or the answer kept for an idempotency key: pool id, seq,
-- ms, epoch, serial, and the code, or of a coupon the order with its length, call id, number of the terms and terms.
-- First as they are in Redis, then as this call changes them, so that a later request of the call meets the earlier
-- ones. nil: none. A pool: this call granted it there, and its serial is known at the end.
local values = {}
local strings, existing = 0, 0
for from = 1, #names, PIECE do
  local to = min(from + PIECE - 1, #names)
  local found = call('MGET', unpack(names, from, to))
  existing = existing + call('EXISTS', unpack(names, from, to))
  for i = from, to do
    local value = found[i - from + 1]
    if value then values[names[i]], strings = value, strings + 1 end
  end
end
-- MGET returns nothing for a key of another type and does not fail. Such a window would count as empty.
if strings ~= existing then return redis.error_reply('WRONGTYPE a window or a kept answer is not a string') end

for p = 1, pool_count do
  local pool = pools[p]
  if pool.id and not pool.batch.refusal and not pool.coupon and pool.wanted > 0 then
    pool.codes = call('LRANGE', KEYS[list_base + p], '0', pool.wanted - 1)
    -- If the list does not fit its counters, the data were changed from outside or a write is missing, and the code at
    -- the head does not have the seq `issued + 1`. Nothing is issued then.
    pool.broken = call('LLEN', KEYS[list_base + p]) ~= tonumber(pool.loaded) - pool.issued
  end
end

local granted, replayed_key = 0, nil
local sizes, details = {}, {}

-- Returns the order of a use: `who` begins with its length (2 bytes), and the order follows it.
local function order_of(who)
  local high, low = byte(who, 1, 2)
  return sub(who, 3 + high * 256 + low)
end

-- Returns what is kept for the grant at a place of a pool. `of_serial`: its serial.
local function kept_answer(pool, place, of_serial)
  local code = pool.used and order_of(pool.parts[place + 1]) .. pool.terms or pool.codes[place]
  return pool.id .. ' ' .. format('%d', pool.issued + place) .. ' ' .. stamp .. ' ' .. ARGV[1] .. ' ' ..
    format('%d', of_serial) .. ' ' .. code
end

-- Returns the answer kept for the key, or nil. `order`: of a coupon, the order of the use with its length.
local function replay(pool, key, order)
  local answer = values[key]
  if not answer then return nil end
  if type(answer) == 'table' then
    for place = 1, answer.taken do
      if answer.keys[place] == key then
        answer = kept_answer(answer, place, 0)
        break
      end
    end
  end
  local pool_id, fact, code_from = string.match(answer, '^(%d+) (%d+ %d+ %d+ %d+) ()')
  if pool_id ~= pool.id then return 'KEY_REUSED' end
  if pool.coupon then
    if sub(answer, code_from, code_from + #order - 1) ~= order then return 'KEY_REUSED' end
    details[#details + 1] = pool_id .. ' ' .. sub(answer, code_from + #order)
    answer = 'USED_BEFORE ' .. #details .. ' ' .. fact
  else answer = 'REPLAYED ' .. answer end
  replayed_key = key
  return answer
end

-- Returns nil within all limits; otherwise the time (ms) from which on all of them allow a redemption, '' for never.
local function limit_refusal(batch, log)
  local retry_at_ms, refused = 0, false
  local count = #log / STAMP
  for _, limit in ipairs(batch.limits) do
    local most, window_ms = limit[1], limit[2]
    if count >= most then
      if window_ms == 0 then return '' end
      local from = (count - most) * STAMP
      local leaves_at_ms = tonumber(sub(log, from + 1, from + STAMP)) + window_ms
      if leaves_at_ms > now then
        refused = true
        retry_at_ms = max(retry_at_ms, leaves_at_ms)
      end
    end
  end
  if refused then return format('%d', retry_at_ms) end
end

-- Returns nil if a code can be issued or the coupon be used; otherwise the answer. `product`: of a coupon, what it is
-- used for, or nil. The order of the checks is part of the contract: batch, limits, pool, backlog.
local function refusal(pool, window, product)
  local batch, coupon = pool.batch, pool.coupon
  if batch.refusal then return batch.refusal end
  if product and coupon.product ~= '' and product ~= coupon.product then return 'WRONG_PRODUCT' end
  local log = window and values[window]
  if log then
    local retry_at_ms = limit_refusal(batch, log)
    if retry_at_ms then return 'LIMIT_REACHED ' .. retry_at_ms end
  end
  -- A batch without this pool has no codes for the client. The pool of a coupon is only not opened yet: not used up.
  if not pool.id then return coupon and 'REFILLING' or 'SOLD_OUT' end
  if pool.broken then return 'INCONSISTENT' end
  if coupon then
    if pool.issued + pool.taken >= coupon.total then return 'SOLD_OUT' end
  elseif not pool.codes[pool.taken + 1] then
    if pool.issued + pool.taken >= pool.total then return 'SOLD_OUT' end
    return 'REFILLING'
  end
  if granted >= room then return 'BACKLOG_FULL' end
end

-- The answers: words, codes and what separates them, behind what is known only when the event is written.
local answers, length = {''}, 1

local function grant(pool, window, key, who)
  local taken, parts = pool.taken + 1, pool.parts
  local coupon, at = pool.coupon, length
  granted, pool.taken = granted + 1, taken
  if coupon then
    parts[taken + 1] = who
    if not pool.used then
      pool.terms = ARGV[2] .. ' ' .. coupon.terms .. ' ' .. coupon.text
      details[#details + 1] = pool.id .. ' ' .. pool.terms
      pool.used = 'USED ' .. #details .. ' '
    end
    answers[at + 1], answers[at + 2] = pool.used, format('%d', pool.issued + taken)
  else
    local code, last = pool.codes[taken], 3 * taken + 1
    local size = sizes[#code]
    if not size then
      size = string.char(floor(#code / 256), #code % 256)
      sizes[#code] = size
    end
    answers[at + 1], answers[at + 2] = 'GRANTED ', code
    parts[last - 2], parts[last - 1], parts[last] = size, code, who
  end
  answers[at + 3], length = US, at + 3
  if window then
    local log, touched = values[window], pool.batch.touched
    log = log and sub(log .. stamp, -pool.batch.most * STAMP) or stamp
    values[window] = log
    -- A window that is touched twice is written twice, and the later value remains.
    touched[#touched + 1] = window
    touched[#touched + 1] = log
  end
  if key then values[key], pool.keys[taken] = pool, key end
end

-- Decides a request about a coupon: returns the answer, or nil, and where `who` begins in the request. A coupon that is
-- requested as a batch of codes, or by a code that merely has the same key, is unknown. This comes before anything else:
-- its kept answers, its state and its limits concern other requests.
local function decide_coupon(pool, window, key, request, wish)
  local coupon = pool.coupon
  if not coupon or not wish then return 'UNKNOWN_BATCH' end
  local c1, c2 = byte(request, 1, 2)
  local code_end = 2 + c1 * 256 + c2
  if coupon.code ~= '' and coupon.code ~= sub(request, 3, code_end) then return 'UNKNOWN_BATCH' end
  local p1, p2 = byte(request, code_end + 1, code_end + 2)
  local product_end = code_end + 2 + p1 * 256 + p2
  local product = product_end > code_end + 2 and sub(request, code_end + 3, product_end) or nil
  local answer = key and replay(pool, key, order_of(sub(request, product_end + 1))) or refusal(pool, window, product)
  if wish == 'look' and not answer then
    answer = 'USABLE ' .. format('%d', coupon.total - pool.issued - pool.taken) .. ' ' .. coupon.text
  end
  return answer, product_end + 1
end

for r = 1, request_count do
  local pool, window, key, request = pool_of[r], window_of[r], key_of[r], ARGV[first_request + r]
  local answer, who_from
  if of_coupon[r] or pool.coupon then
    answer, who_from = decide_coupon(pool, window, key, request, of_coupon[r])
  -- Before anything else: the batch belongs to other clients, and its kept answers, state and limits are theirs.
  elseif bound[r] and not pool.id then answer = 'UNKNOWN_BATCH'
  else answer = key and replay(pool, key) or refusal(pool, window) end
  if answer then answers[length + 1], answers[length + 2], length = answer, US, length + 2
  else grant(pool, window, key, who_from and sub(request, who_from) or request) end
end
-- In place of the last US.
answers[length], answers[length + 1] = RS, concat(details, US)

local first_serial = format('%d', serial + 1)
local head = stamp .. ' ' .. ARGV[1] .. ' ' .. first_serial .. ' ' .. format('%d', granted)
if granted == 0 then
  -- A replay sets its key's expiry to what it is: a write that changes nothing and is allowed when memory is short. A
  -- WAIT on this connection then waits until the replicas have everything up to the answer that is replayed.
  if replayed_key then
    local expires_at_ms = call('PEXPIRETIME', replayed_key)
    if expires_at_ms > 0 then call('PEXPIREAT', replayed_key, expires_at_ms)
    else call('HSET', KEYS[1], 'clock', state[4]) end
  end
  answers[1] = head .. RS .. RS
  return {'DONE', concat(answers), '', host}
end

local puts = {}
-- Adds the commands that write these pairs of a key and its value. `expires_at_ms` nil: without expiry.
local function put(pairs, expires_at_ms)
  if expires_at_ms and not HAS_MSETEX then
    for i = 1, #pairs, 2 do puts[#puts + 1] = {'SET', pairs[i], pairs[i + 1], 'PXAT', expires_at_ms} end
    return
  end
  for from = 1, #pairs, 2 * PIECE do
    local to = min(from + 2 * PIECE - 1, #pairs)
    local command
    if expires_at_ms then
      command = {'MSETEX', (to - from + 1) / 2, unpack(pairs, from, to)}
      command[#command + 1] = 'PXAT'
      command[#command + 1] = expires_at_ms
    else command = {'MSET', unpack(pairs, from, to)} end
    puts[#puts + 1] = command
  end
end

-- The facts have their serials in the order of the data: pool by pool.
local data, new_answers, before = {}, {}, serial
for p = 1, pool_count do
  local pool = pools[p]
  local taken, keys = pool.taken, pool.keys
  if taken > 0 then
    local facts = format(' %d %d', pool.issued + 1, taken)
    if pool.coupon then pool.parts[1] = 'C ' .. pool.id .. facts .. ' ' .. pool.coupon.terms .. '\n'
    else pool.parts[1] = 'R ' .. pool.id .. facts .. '\n' end
    data[#data + 1] = concat(pool.parts)
    for place = 1, taken do
      local key, n = keys[place], #new_answers
      if key then new_answers[n + 1], new_answers[n + 2] = key, kept_answer(pool, place, before + place) end
    end
    before = before + taken
    pool.issued_after = format('%d', pool.issued + taken)
  end
end
data = data[2] and concat(data) or data[1]
if #new_answers > 0 then put(new_answers, format('%d', now + tonumber(ARGV[6]))) end
for b = 1, batch_count do put(batches[b].touched, batches[b].expires_at_ms) end
backlog, serial = format('%d', backlog + granted), format('%d', serial + granted)

-- The writes. None of them reads, and from here on nothing may read the list of a pool: it no longer fits `issued`.
-- XADD is first: it is the record, and the only write that Redis may refuse, when memory is short or the key is no
-- stream. Then nothing has happened. Behind LPOP, its refusal would lose the popped codes without a record.
-- LPOP is second: with it no later call can issue these codes. Between the two nothing can fail: the types of all keys
-- were checked above, and LPOP is allowed when memory is short. If LPOP were last and a write before it failed, codes
-- that are recorded as issued would stay at the head of the list and be issued again.
-- The kept call is third: from then on a repeat of the call is recognised. Kept answers and windows follow, then the
-- counters. `issued`, the last, contradicts the list until it is written, so that a script that failed in between leaves
-- a pool that answers INCONSISTENT and issues nothing.
-- A server that stops at any of these writes has all of them afterwards or none: the append-only file and the replicas
-- get them as one transaction.
local id = call('XADD', KEYS[2], '*', 'v', '4', 'e', ARGV[1], 't', stamp, 'c', ARGV[2], 's', first_serial, 'n',
  granted, 'd', data)
for p = 1, pool_count do
  if pools[p].taken > 0 and not pools[p].coupon then call('LPOP', KEYS[list_base + p], pools[p].taken) end
end
answers[1] = head .. RS .. id .. RS
local result = concat(answers)
call('SET', KEYS[3], result, 'PX', CALL_KEPT_MS)
for i = 1, #puts do call(unpack(puts[i])) end
call('HSET', KEYS[1], 'backlog', backlog, 'clock', stamp, 'serial', serial)
for p = 1, pool_count do
  local pool, key = pools[p], KEYS[pool_base + p]
  if pool.taken > 0 then
    -- A coupon has no list: `loaded` follows `issued`, so that the counters say so as in any pool with an empty list.
    if pool.coupon then call('HSET', key, 'issued', pool.issued_after, 'loaded', pool.issued_after)
    else call('HSET', key, 'issued', pool.issued_after) end
  end
end
return {'DONE', result, data, host}
