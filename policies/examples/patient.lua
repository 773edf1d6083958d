-- Never fails over for silence: only the word of the primary's host, that the server is gone,
-- counts. For places where a network that is gone for minutes is likelier than a server that hangs.

local function answer(action, reason, until_ms)
    return { action = action, reason = reason, until_ms = until_ms }
end

local function primary_lost(facts)
    local condition = facts.primary.condition
    if facts.coordinator or facts.mode ~= "s" then
        return answer("alert", "the primary does not serve and cannot be replaced", 60000)
    elseif condition == "stopped" or condition == "gone" then
        return answer("promote", "the primary is gone, by its host's word")
    elseif facts.primary.bad_ms > 60000 then
        return answer("alert", "the primary has been silent for a minute", 60000)
    end
    return answer("wait", "its host has not said that it is gone", 1000)
end

local function mirror_lost(facts)
    local condition = facts.mirror.condition
    if condition == "stopped" or condition == "gone" then
        return answer("release", "the mirror is gone, by its host's word")
    elseif facts.replication.stalled_ms > facts.settings.grace_ms then
        return answer("release", "commits have been waiting for the mirror too long")
    end
    return answer("wait", "nobody is held up by it", 1000)
end

return {
    decide = function(facts)
        if facts.state == "mirror_lost" then
            return mirror_lost(facts)
        end
        return primary_lost(facts)
    end,
}
