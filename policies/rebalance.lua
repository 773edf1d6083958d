-- Pairs whose roles are not the preferred ones are handed back in waves; the pairs of one wave at
-- the same time. The contract (facts, answers, budgets) is policies/README.md.

-- A host takes part in at most this many handovers at once: each is a checkpoint and a shutdown
-- there.
local PER_HOST = 2

local function room(load, pair)
    return (load[pair.primary_host] or 0) < PER_HOST and (load[pair.mirror_host] or 0) < PER_HOST
end

local function put(wave, pair)
    table.insert(wave.contents, pair.content)
    for host in pairs({ [pair.primary_host] = true, [pair.mirror_host] = true }) do
        wave.load[host] = (wave.load[host] or 0) + 1
    end
end

local function first_with_room(waves, pair)
    for _, wave in ipairs(waves) do
        if room(wave.load, pair) then
            return wave
        end
    end
    local wave = { contents = {}, load = {} }
    table.insert(waves, wave)
    return wave
end

return {
    -- Only pairs that are up and in sync can be handed over; the others are left out.
    decide = function(facts)
        local waves = {}
        for _, pair in ipairs(facts.pairs) do
            if pair.mode == "s" and pair.mirror_status == "u" then
                put(first_with_room(waves, pair), pair)
            end
        end
        local answer = { waves = {} }
        for _, wave in ipairs(waves) do
            table.insert(answer.waves, wave.contents)
        end
        return answer
    end,
}
