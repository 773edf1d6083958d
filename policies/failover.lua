-- What is done about one pair when there is evidence against one of its instances.
-- The contract (facts, answers, budgets) is policies/README.md.
--
-- It decides and does nothing else. Whatever it says, the guards are asked after it: a mirror that
-- is not in sync is not promoted, an old server that can be reached is fenced first.

local function answer(action, reason, until_ms)
    return { action = action, reason = reason, until_ms = until_ms }
end

-- Out of patience: enough tries, over enough time.
local function exhausted(instance, settings)
    return instance.tries >= settings.patience_tries and instance.bad_ms >= settings.patience_ms
end

local function patience_left(instance, settings)
    return math.max(200, settings.patience_ms - instance.bad_ms)
end

-- A server that answers without serving: repaired after a crash, starting, or on its way down.
local function busy_primary(facts)
    local primary, settings = facts.primary, facts.settings
    local evidence = primary.evidence
    if evidence == "shutting_down" then
        if primary.bad_ms >= settings.shutdown_ms then
            return answer("promote", "the primary has not finished shutting down in time")
        end
        return answer("wait", "the primary is shutting down", 1000)
    elseif evidence == "starting" or evidence == "recovering" or evidence == "not_yet" then
        if primary.still_ms >= settings.recovery_stall_ms then
            return answer("promote", "the primary's crash recovery does not advance")
        end
        return answer("wait", "the primary is in crash recovery and advances", 1000)
    end
    return answer("alert", "the primary lives and does not let us in: " .. evidence, 10000)
end

local function patience(facts, what)
    local primary = facts.primary
    if exhausted(primary, facts.settings) then
        return answer("promote", what)
    end
    return answer("wait", "patience: " .. what, patience_left(primary, facts.settings))
end

-- It serves on its host, and we do not reach it. While its mirror hears it only our way to it is
-- cut, and clients are best served where they are: people are told when that lasts. Else it waits
-- for that mirror: more is cut.
local function cut_off_primary(facts)
    if not facts.replication.heard then
        return patience(facts, "the primary serves on its host only: neither its mirror nor the"
            .. " watcher hears it")
    elseif exhausted(facts.primary, facts.settings) then
        return answer("alert", "the primary serves on its host and its mirror hears it, and it does"
            .. " not answer the watcher: look at the network between them", 1000)
    end
    return answer("wait", "the primary serves on its host and its mirror hears it", 1000)
end

-- Nobody can end it: a primary that its mirror still hears is not dead.
local function unreachable_primary(facts)
    if facts.replication.heard then
        return answer("wait", "the mirror still hears its primary", 1000)
    end
    return patience(facts, "neither the primary nor its host answers")
end

local function lost_primary(facts)
    local primary = facts.primary
    if primary.condition == "busy" then
        return busy_primary(facts)
    elseif primary.condition == "stopped" then
        return answer("promote", "the primary is stopped, by its host's word")
    elseif primary.condition == "gone" then
        return answer("promote", "the primary's postmaster is dead, by its host's word")
    elseif primary.condition == "hung" then
        -- It goes on serving the sessions it has, and its mirror hears that; its host can end it.
        return patience(facts, "the primary's postmaster lives and does not answer")
    elseif primary.condition == "cut_off" then
        return cut_off_primary(facts)
    elseif primary.condition == "unreachable" then
        return unreachable_primary(facts)
    elseif primary.condition == "wrong_system" then
        return answer("alert", "another database system answers at the primary's address", 10000)
    end
    return answer("wait", "the primary's state is not known yet", 200)
end

-- That no address is known for a name says nothing of the server: somebody mends that.
local function unresolved(who)
    return answer("alert", ("the %s's address is a name that nobody knows here, and its host says"
        .. " that it lives: mend the hosts file or the name service of the watcher's host")
        :format(who), 10000)
end

local function primary_trouble(facts)
    if facts.primary.condition == "unresolved" then
        return unresolved("primary")
    elseif facts.coordinator then
        return answer("alert", "the coordinator does not serve: see moonrise activatestandby",
            60000)
    elseif not facts.mirror then
        return answer("alert", "the primary does not serve and has no mirror", 60000)
    elseif facts.mode ~= "s" and facts.primary.condition ~= "busy" then
        return answer("alert", "the primary does not serve and its mirror is not in sync: " ..
            "moonrise start starts it again", 60000)
    end
    return lost_primary(facts)
end

-- Whether only we do not hear the mirror, or do not know where it is: its primary has it, and its
-- host says that it is there, too.
local function heard_of(facts)
    local condition = facts.mirror.condition
    return (condition == "unresolved" or condition == "cut_off") and facts.replication.streaming
end

local function mirror_trouble(facts)
    local mirror, replication, settings = facts.mirror, facts.replication, facts.settings
    if mirror.condition == "stopped" or mirror.condition == "gone" then
        return answer("release", "the mirror is gone, by its host's word")
    elseif mirror.condition == "wrong_role" then
        return answer("release", "the mirror is no mirror any more: somebody has promoted it, or"
            .. " another server answers at its address")
    elseif mirror.condition == "wrong_system" then
        return answer("release", "another database system answers at the mirror's address")
    elseif replication.flapping then
        return answer("release", "the mirror's replication fails again and again")
    elseif replication.stalled_ms >= settings.patience_ms then
        return answer("release", "commits hang and the mirror confirms nothing")
    elseif math.max(heard_of(facts) and 0 or mirror.bad_ms, replication.unstreamed_ms)
        >= settings.grace_ms then
        return answer("release", "the mirror's grace period is over")
    elseif mirror.condition == "unresolved" then
        return unresolved("mirror")
    elseif heard_of(facts) and exhausted(mirror, settings) then
        return answer("alert", "the mirror serves on its host and streams, and it does not answer"
            .. " the watcher: look at the network between them", 1000)
    end
    return answer("wait", "the mirror has its grace period", 1000)
end

local REFUSALS = { too_many = "it has too many clients",
    sqlstate = "it lacks memory, processes or something else",
    authentication = "it does not accept who we are" }

-- It still serves, and its commits still reach its mirror. A promotion would end every session
-- for what somebody can mend in place, the mirror's disk is often the same one, and who fills a
-- server fills its mirror as well: people are told. A primary that cannot go on ends by itself, and
-- is a lost one then.
local function ailing(facts)
    for _, who in ipairs({ "primary", "mirror" }) do
        local why = facts[who] and facts[who].disk_error
        if why then
            return answer("alert", ("the %s's data directory cannot be written: %s"):format(who,
                why):sub(1, 500), 60000)
        elseif facts[who] and facts[who].refusal then
            return answer("alert", ("the %s serves and lets no new session in: %s"):format(who,
                REFUSALS[facts[who].refusal]), 60000)
        end
    end
    return answer("nothing", "the pair is as it should be")
end

return {
    decide = function(facts)
        if facts.state == "primary_lost" or facts.state == "double_fault" then
            return primary_trouble(facts)
        elseif facts.state == "mirror_lost" then
            return mirror_trouble(facts)
        end
        return ailing(facts)
    end,
}
