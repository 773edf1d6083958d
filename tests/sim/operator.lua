--- What people do to a simulated pair: start it, recover its mirror, hand it over, by moonrise's
--- own code.
local M = {}

--- Starts both, as `start` does: the mirror only when nothing speaks against it.
function M.start(load, ctx, mr)
    local hold, instance = load("lib.hold"), load("lib.instance")
    return hold.content(ctx, 0, "start", "begun", function(lease)
        local pair = ctx.cat:pair(0)
        local state = ctx.cat:pair_state(0)
        local epoch, err = ctx.cat:call("epoch_reserve", lease.token, 0, "start")
        if not pair or not state or not epoch then
            return nil, err
        end
        mr.parallel({ pair.primary, pair.mirror }, 2, function(inst)
            local word = ctx.agents:inspect(inst)
            if word and (inst.role == "p" or not instance.start_refusal(word, state)) then
                ctx.agents:order(inst, "start", { epoch = epoch, listen = instance.listen(inst) },
                    { timeout_ms = 30000 })
            end
            return true
        end)
        return true
    end)
end

--- Recovers the pair's mirror if it is down, as `recoverseg -a` does.
function M.recover(load, ctx)
    load("lib.handover_resume").all(ctx)
    local recovery = load("lib.recovery")
    local pair, err = ctx.cat:pair(0)
    if not pair or pair.mirror.status ~= "d" then
        return pair ~= nil, err
    end
    local failed
    failed, err = recovery.examine(ctx, pair)
    if not failed then
        return nil, err
    end
    local kind = failed.possible.start and "start" or failed.possible.differential
        and "differential" or "full"
    return recovery.recover(ctx, failed, kind, {})
end

--- Hands the pair over, as `recoverseg -r` does.
function M.hand_over(load, ctx)
    load("lib.handover_resume").all(ctx)
    local pair, err = ctx.cat:pair(0)
    if not pair then
        return nil, err
    end
    return load("lib.handover").run(ctx, pair, {})
end

return M
