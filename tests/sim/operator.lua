--- What people do to a simulated pair: start it, recover its mirror, hand it over, by moonrise's
--- own code.
local M = {}

--- Starts both, as `start` does: the mirror only when nothing speaks against it.
function M.start(load, ctx, mr)
    local hold, instance = load("lib.hold"), load("lib.instance")
    local content = ctx.content
    return hold.content(ctx, content, "start", "begun", function(lease)
        local pair, err = ctx.cat:pair(content)
        if pair then
            pair, err = load("lib.confirm").unless_confirmed(ctx, pair, lease.token)
        end
        local state = pair and ctx.cat:pair_state(content)
        local epoch = state and ctx.cat:call("epoch_reserve", lease.token, content, "start")
        if not epoch then
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

--- Starts a coordinator, as `start` does: without a catalog to ask, by an epoch of its own.
---@param row table
---@return function
function M.start_coordinator(row)
    return function(load, ctx)
        local word, err = ctx.agents:inspect(row)
        if not word or not word.epoch.valid then
            return nil, err
        end
        local epoch = word.epoch.epoch + 1
        local done
        done, err = ctx.agents:order(row, "start",
            { epoch = epoch, listen = load("lib.instance").listen(row) }, { timeout_ms = 30000 })
        local cat = done and load("lib.catalog").open(ctx.env)
        if cat then
            done, err = cat:call("epoch_seen", epoch)
            cat:close()
        end
        return done, err
    end
end

--- Recovers the pair's mirror if it is down, as `recoverseg -a` does.
function M.recover(load, ctx)
    load("lib.handover_resume").all(ctx)
    local recovery = load("lib.recovery")
    local pair, err = ctx.cat:pair(ctx.content)
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
    local pair, err = ctx.cat:pair(ctx.content)
    if not pair then
        return nil, err
    end
    return load("lib.handover").run(ctx, pair, {})
end

return M
