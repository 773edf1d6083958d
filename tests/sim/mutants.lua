--- Ways to break a rule of the safety core, each of which the simulator must catch: `rules` are
--- taken out of the models of the catalog, the agents and the servers, `mutate` changes moonrise's
--- own code as it is loaded into a process. Where two layers keep one rule, both are broken.

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

return {
    { rule = 1, name = "what is not in sync is promoted", rules = { sync = false },
      mutate = believing(function(input)
        return with(input, {
            primary = with(input.primary, { mode = "s" }),
            mirror = input.mirror and with(input.mirror, { mode = "s", status = "u" }),
        })
      end) },
    { rule = 1, name = "it is not looked whether commits really wait", rules = { canary = false } },
    { rule = 2, name = "the primary is released before that is recorded",
      mutate = function(load)
        guarding("release", function(facts)
            return with(facts, { mode = "n" })
        end)(load)
        take_out(load, "record_mirror_down", "release")
      end },
    { rule = 5, name = "a half-made copy can start", rules = { control = false, mark = false } },
    { rule = 6, name = "the lease of a content is not honoured", rules = { content_lease = false },
      mutate = believing(function(input)
        return with(input, { lease = false })
      end) },
    { rule = 6, name = "two act", rules = { lease = false } },
    { rule = 7, name = "an order that comes late is carried out", rules = { epochs = false } },
    { rule = 7, name = "a statement of an earlier order goes on", rules = { statements = false } },
    { rule = 9, name = "history is a number", rules = { history = false, mark = false },
      mutate = function(load)
        load("lib.instance").start_refusal = function() end
        guarding("arm", function(facts)
            return with(facts,
                { mirror = with(facts.mirror, { behind_promotion = false, marked = false }) })
        end)(load)
      end },
}
