--- `moonrise start`: starts what the catalog says belongs to the cluster.
local bring_down = require("lib.bring_down")
local bring_up = require("lib.bring_up")
local cluster = require("lib.cluster")
local handover_resume = require("lib.handover_resume")
local mr = require("moonrise")
local settings = require("lib.settings")
local term = require("lib.term")
local whole = require("lib.whole")

local RESTRICTED_HBA = "moonrise.hba"

-- Restricted: the coordinator reads a pg_hba.conf without the lines that cluster.lua adds for
-- clients. The lines come from the one in place, which begins with ours.
local function restricted_settings(env)
    local text, err = mr.read_file(env.datadir .. "/pg_hba.conf")
    if not text then
        return nil, err
    end
    local kept, user = {}, mr.whoami().user
    for line in text:gmatch("[^\n]+") do
        if settings.is_own_hba(line, user) then
            table.insert(kept, line)
        end
    end
    local path = env.datadir .. "/" .. RESTRICTED_HBA
    local ok
    ok, err = mr.write_file(path, table.concat(kept, "\n") .. "\n")
    return ok and { hba_file = path }, err
end

local WORDS = { started = "started", already = "runs already", left = "left as it is" }
local FAILURES = { failed = "not started", skipped = "skipped", waiting = "its commits wait" }

local function report(results)
    local failures = 0
    for _, r in ipairs(results) do
        local name = cluster.name(r.inst)
        if FAILURES[r.outcome] then
            failures = failures + 1
            term.error(r.err)
            term.warn("%s: %s", name, FAILURES[r.outcome])
        else
            term.info("%s: %s", name, WORDS[r.outcome])
        end
        if r.note then
            term.warn("%s: %s", name, r.note)
        end
    end
    return failures
end

local function as_json(results)
    local list = {}
    for _, r in ipairs(results) do
        table.insert(list, { dbid = r.inst.dbid, content = r.inst.content, outcome = r.outcome,
                             error = r.err and tostring(r.err), note = r.note })
    end
    return { instances = mr.json_array(list) }
end

local function start_coordinator(ctx, opts)
    local given, err
    if opts.restricted then
        given, err = restricted_settings(ctx.env)
        if not given then
            return nil, err
        end
    end
    local outcome
    outcome, err = bring_up.start_coordinator(ctx, { settings = given })
    if not outcome then
        return nil, err
    elseif outcome == "started" then
        bring_down.forget(ctx.env)
    end
    term.info("Coordinator %s:%d: %s", ctx.env.listen, ctx.env.port, WORDS[outcome])
    if opts.restricted and outcome == "already" then
        term.warn("it runs without restriction; stop it first")
    end
    return outcome
end

local function start_rest(ctx, opts)
    local unfinished = handover_resume.all(ctx, "start")
    local results, err = bring_up.start_rest(ctx,
        { batch = opts.batch, no_standby = opts.no_standby })
    if not results then
        return nil, err
    end
    bring_down.forget(ctx.env)
    local failures = unfinished + report(results)
    if opts.json then
        term.json(as_json(results))
    end
    if failures > 0 then
        term.warn("%d instances were not started as they should be", failures)
        return 1
    end
    term.info("Cluster %s is started", ctx.env.name)
    return 0
end

local function start(ctx, opts)
    local ok, err = start_coordinator(ctx, opts)
    if ok and opts.coordinator_only then
        ok, err = bring_up.coordinator_alone(ctx)
        return ok and 0, err
    elseif ok then
        return start_rest(ctx, opts)
    end
    return nil, err
end

local function plan(env, opts)
    term.info("Start the cluster %s, coordinator %s", env.name, env.datadir or env.host)
    if opts.coordinator_only then
        term.info("   the coordinator only")
    elseif opts.no_standby then
        term.info("   without the standby coordinator")
    end
end

local function main(opts)
    return whole.run(opts, {
        plan = plan, act = start,
        question = "Continue with the start of the cluster",
        stop_question = "Stop before everything is started",
    })
end

return {
    summary = "start the cluster",
    usage = "[-m] [-R] [-y] [options]",
    description = [[
Starts the coordinator, reads its catalog, and starts every instance that belongs to the cluster.
Instances that were replaced while they were away, or are half copied, are named and left alone:
recoverseg brings them back. Hosts that cannot be reached are skipped; the rest is started and the
exit code is 1. Until a start has ended the cluster counts as stopped, and nothing is failed
over: one that was killed is simply run again.]],
    options = {
        { key = "coordinator_only", short = "m", help = "start the coordinator only" },
        { key = "restricted", short = "R",
          help = "the coordinator lets in the superuser and moonrise only" },
        { key = "no_standby", short = "y", help = "do not start the standby coordinator" },
    },
    main = main,
}
