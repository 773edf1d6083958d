-- THIS POLICY LOSES COMMITS. When primary and mirror were both lost and for an hour nobody has
-- brought the primary back, it promotes the mirror although that is not in sync: whatever was
-- committed since the mirror was last in sync is gone for good. It is for data that can be loaded
-- again and has to be served all the time. Otherwise let a person choose (moonrise recoverseg
-- --promote).
--
-- The acceptance goes to the catalog and to the journal: write into it who answers for it. Without
-- the word of the primary's host that it is stopped nothing is promoted, since that one might go on
-- acknowledging beside its successor. An hour that a watcher did not see (it was started later)
-- does not count.

local PATIENCE_MS = 60 * 60 * 1000
local ACCEPTED = "accepted by the owner of this data: it can be loaded again"

local function answer(action, reason, until_ms)
    return { action = action, reason = reason, until_ms = until_ms }
end

local function is_gone(instance)
    return instance.condition == "stopped" or instance.condition == "gone"
end

local function last_resort(facts)
    local primary, mirror = facts.primary, facts.mirror
    if facts.coordinator or not mirror or mirror.condition ~= "fine" or not is_gone(primary) then
        return answer("alert", "the primary does not serve and nobody can take its place", 60000)
    elseif primary.bad_ms < PATIENCE_MS then
        return answer("alert", "the primary does not serve: its mirror, which is not in sync, is "
            .. "promoted when nobody brings it back", PATIENCE_MS - primary.bad_ms)
    end
    return { action = "promote", reason = "nobody has brought the primary back in time",
             accept_loss = ACCEPTED }
end

local function primary_lost(facts)
    if facts.mode ~= "s" then
        return last_resort(facts)
    elseif facts.coordinator then
        return answer("alert", "the coordinator does not serve", 60000)
    elseif is_gone(facts.primary) then
        return answer("promote", "the primary is gone, by its host's word")
    elseif facts.primary.bad_ms > 60000 then
        return answer("alert", "the primary has been silent for a minute", 60000)
    end
    return answer("wait", "its host has not said that it is gone", 1000)
end

local function mirror_lost(facts)
    if is_gone(facts.mirror) then
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
        elseif facts.state == "primary_lost" or facts.state == "double_fault" then
            return primary_lost(facts)
        end
        return answer("nothing", "the pair serves")
    end,
}
