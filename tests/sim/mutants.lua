--- Ways to break a rule of the safety core, each of which the simulator must catch: `rules` are
--- taken out of the models of the catalog, the agents and the servers, `mutate` changes moonrise's
--- own code as it is loaded into a process. Where two layers keep one rule, both are broken. With
--- `life = "coordinator"` it is the coordinator's pair that shows it (tests/sim/coordinator.lua).
--- `seed` is a life that shows it: it is tried first. `ordeal` is what each of its lives has
--- (tests/sim/faults.lua).
---
--- Rule 10 has none: in these lives no instance moves. A recovery replaces what lies in its own
--- target, which is rule 5's, and a slot that is dropped holds nothing but WAL: without it the next
--- recovery is a copy. That an abandoned directory goes last is shown on real servers
--- (tests/cluster/move_spec.lua, move_kill_spec.lua).

-- Has the state machine and the guards be given other facts.
local function believing(change)
    return function(load)
        local fts = load("lib.fts")
        local step = fts.step
        function fts.step(memory, input)
            return step(memory, change(input))
        end
    end
end

local function with(row, changes)
    return setmetatable(changes, { __index = row })
end

local function without(row, key)
    local rest = {}
    for name, value in pairs(row) do
        rest[name] = name ~= key and value or nil
    end
    return rest
end

local function guarding(name, change)
    return function(load)
        local guard = load("lib.guard")
        local ask = guard[name]
        guard[name] = function(facts)
            return ask(change(facts))
        end
    end
end

local function take_out(load, action, instead)
    for _, row in ipairs(load("lib.fts").rows) do
        for i, name in ipairs(row.actions) do
            row.actions[i] = name == action and instead or name
        end
    end
end

-- Has the guards be told other things about the mirror, whoever asks them.
local function mirror_said(changes, ...)
    local names = { ... }
    return function(load)
        for _, name in ipairs(names) do
            guarding(name, function(facts)
                return with(facts, { mirror = with(facts.mirror, changes) })
            end)(load)
        end
    end
end

local function primary_said(changes)
    return guarding("promote", function(facts)
        return with(facts, { primary = with(facts.primary, changes) })
    end)
end

-- Has a look at a pair answer otherwise.
local function viewing(name, answer)
    return function(load)
        local pairview = load("lib.pairview")
        local new = pairview.new
        function pairview.new(...)
            local view = new(...)
            local method = view[name]
            view[name] = function(self, ...)
                return answer(self, method, ...)
            end
            return view
        end
    end
end

-- The mirror is promoted first, and that is recorded then.
local function promote_first(load)
    local catalog = load("lib.catalog")
    local open = catalog.open
    function catalog.open(...)
        local session = open(...)
        local call, agents = session.call, load("lib.agents").new({})
        function session.call(self, fn, token, content, ...)
            if fn ~= "promote" then
                return call(self, fn, token, content, ...)
            end
            local dbid, decision = ...
            local pair = self:pair(content)
            local epoch = call(self, "epoch_reserve", token, content, "promote")
            if pair and epoch then
                agents:order(pair.mirror, "promote", { epoch = epoch, flush_lsn = "0/0" })
            end
            return call(self, fn, token, content, dbid, decision)
        end
        return session
    end
end

local function anything_starts(load)
    load("lib.instance").start_refusal = function() end
end

return {
    { rule = 1, seed = 4, name = "what is not in sync is promoted", rules = { sync = false },
      mutate = believing(function(input)
        return with(input, {
            primary = with(input.primary, { mode = "s" }),
            mirror = input.mirror and with(input.mirror, { mode = "s", status = "u" }),
        })
      end) },
    { rule = 1, seed = 1, name = "it is not looked whether commits really wait",
      rules = { canary = false } },
    { rule = 1, seed = 21, name = "an arming passes through waiting for nobody at all",
      rules = { never_empty = false } },
    { rule = 1, seed = 16, name = "what the mirror has flushed is not asked",
      rules = { returned = false } },
    { rule = 1, seed = 19, name = "anybody may acknowledge", rules = { one_name = false },
      mutate = viewing("disarmed", function() return false end) },
    { rule = 1, seed = 4, name = "a mirror's name is the same in each epoch",
      rules = { names = false, borrowed = false },
      mutate = function(load)
        local instance = load("lib.instance")
        local stream_name = instance.stream_name
        function instance.stream_name(mirror)
            return stream_name(mirror)
        end
      end },
    { rule = 1, seed = 15, name = "what happened since the arming began is not asked",
      rules = { arm_epoch = false },
      mutate = viewing("free", function(view, free, ...)
        local keys = {}
        for _, key in ipairs({ ... }) do
            table.insert(keys, key ~= "arm" and key or nil)
        end
        return free(view, unpack(keys))
      end) },
    { rule = 1, seed = 6, name = "what cannot serve is promoted", rules = { fit = false },
      mutate = mirror_said({ replay_paused = false }, "promote", "fence") },
    { rule = 1, seed = 1, name = "a minor that lets commits through at its start is armed",
      version = 150010,
      mutate = function(load)
        load("lib.guard").server_waits = function() return true end
      end },
    { rule = 2, seed = 1, name = "the primary is released before that is recorded",
      mutate = function(load)
        guarding("release", function(facts)
            return with(facts, { mode = "n" })
        end)(load)
        take_out(load, "record_mirror_down", "release")
      end },
    { rule = 2, seed = 27, name = "a mirror is promoted before that is recorded",
      mutate = promote_first },
    { rule = 3, seed = 16, name = "nobody is fenced", mutate = primary_said({ stopped = true }) },
    { rule = 3, seed = 16, name = "stopped is when the postmaster is gone",
      rules = { stopped = false } },
    { rule = 3, seed = 1, name = "an old primary is not marked", rules = { mark = false },
      mutate = anything_starts },
    { rule = 3, seed = 264, name = "a primary that its mirror still hears is replaced",
      mutate = primary_said({ heard = false }) },
    { rule = 4, seed = 6, name = "what somebody starts is reached by clients",
      rules = { listen = false } },
    { rule = 5, seed = 18, name = "a half-made copy can start",
      rules = { control = false, mark = false } },
    { rule = 5, seed = 49, name = "a directory in use is written", rules = { proof = false } },
    { rule = 5, seed = 13, name = "pg_control is there before the copy is flushed",
      rules = { flush = false } },
    { rule = 6, seed = 4, name = "the lease of a content is not honoured",
      rules = { content_lease = false },
      mutate = believing(function(input)
        return with(input, { lease = false })
      end) },
    { rule = 6, seed = 6, name = "two act", rules = { lease = false } },
    { rule = 6, seed = 3, name = "a pause is not honoured", rules = { pause = false },
      mutate = believing(function(input)
        return without(input, "paused")
      end) },
    { rule = 7, seed = 7, name = "an order that comes late is carried out",
      rules = { epochs = false } },
    { rule = 7, seed = 29, name = "a statement of an earlier order goes on",
      rules = { statements = false } },
    { rule = 8, seed = 7, name = "the coordinator is released without a majority",
      life = "coordinator",
      rules = { majority = false }, mutate = function(load)
        load("lib.hosts_record").majority = function() return 1 end
      end },
    { rule = 8, seed = 13, name = "the coordinator is released before that is on record",
      life = "coordinator", rules = { majority = false }, mutate = function(load)
        load("lib.hosts_record").facts = function() return {} end
      end },
    { rule = 8, seed = 3, name = "its standby is activated by one host's record",
      life = "coordinator",
      rules = { majority_read = false } },
    { rule = 8, seed = 205, name = "a pair is gone on with that has not confirmed its epochs",
      rules = { unconfirmed = false }, mutate = believing(function(input)
        return with(input, { unconfirmed = false })
      end) },
    { rule = 8, seed = 2, name = "the catalog's epoch wins over a higher one on the hosts",
      rules = { words = false } },
    { rule = 8, seed = 2, name = "a standby is taken for none that was promoted",
      rules = { timeline = false }, ordeal = "successor_made_a_standby" },
    { rule = 9, seed = 11, name = "history is a number", rules = { history = false, mark = false },
      mutate = function(load)
        load("lib.instance").start_refusal = function() end
        guarding("arm", function(facts)
            return with(facts,
                { mirror = with(facts.mirror, { behind_promotion = false, marked = false }) })
        end)(load)
      end },
}
