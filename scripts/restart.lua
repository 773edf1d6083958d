--- `moonrise restart`: restarts the instances of a content, or one of them.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local handover_resume = require("lib.handover_resume")
local restart = require("lib.restart")
local session = require("lib.session")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local MODES = { smart = true, fast = true, immediate = true }

local function check(opts, rest)
    if not MODES[opts.mode] then
        return ("-M wants smart, fast or immediate, not '%s'"):format(opts.mode)
    elseif opts.dbid and rest[1] then
        return "a content and --dbid cannot be combined"
    elseif not opts.dbid and not rest[1] then
        return "which content, or which --dbid? moonrise state -s lists them"
    elseif rest[1] and not rest[1]:match("^%-?%d+$") then
        return ("'%s' is no content: a whole number is wanted"):format(rest[1])
    end
    return nil
end

local function wrong(fmt, ...)
    return nil, mr.error("usage", fmt:format(...))
end

-- The instances that were named, the mirror first: what waits for it waits once, and the primary
-- has somebody to take over from it all the while.
local function named(instances, opts, word)
    if opts.dbid then
        local inst = cluster.find(instances, opts.dbid)
        if not inst then
            return wrong("the cluster has no dbid %d", opts.dbid)
        end
        return { inst }, nil, cluster.pair(instances, inst.content)
    end
    local content = tonumber(word)
    local pair = cluster.pair(instances, content)
    if not pair then
        local other = cluster.find(instances, content)
        return wrong("the cluster has no content %d%s", content,
            other and ("; an instance is named with --dbid %d"):format(content) or "")
    elseif pair.mirror and pair.mirror.status == "u" then
        return { pair.mirror, pair.primary }, nil, pair
    end
    return { pair.primary }, nil, pair
end

local function interruption(inst, pair)
    if inst.role == "p" then
        return "its sessions end, and its clients are refused until it serves again"
    elseif pair.primary.mode == "s" then
        return "commits on its primary wait until it streams again"
    end
    return "nobody waits for it"
end

local function print_plan(plan, opts)
    term.info("Restart plan, mode %s:", opts.mode)
    for i, inst in ipairs(plan.list) do
        local clients = plan.ready[i].clients
        term.info("   %s %s", inst.role == "p" and "primary" or "mirror", cluster.name(inst))
        term.info("      %s%s", interruption(inst, plan.pair),
            inst.role == "p" and clients and (" (%d now)"):format(clients) or "")
        if not clients then
            term.warn("%s: it does not answer; it is started if it does not run",
                cluster.name(inst))
        end
    end
    local left = plan.pair.mirror
    if left and left.status == "d" then
        term.warn("%s: down, and left so; it reads its files when it is recovered",
            cluster.name(left))
    end
end

-- All is asked before anything is stopped.
local function plan_of(ctx, opts, word)
    local instances, err = ctx.cat:instances()
    local list, pair
    if instances then
        list, err, pair = named(instances, opts, word)
    end
    if not list then
        return nil, err
    end
    local ready = mr.parallel(list, #list, function(inst)
        return restart.ready(ctx, inst, opts.mode)
    end)
    for _, answer in ipairs(ready) do
        if answer.error then
            return nil, answer.error
        end
    end
    return { list = list, pair = pair, ready = ready }
end

local function carry_out(ctx, plan, opts)
    local progress = term.progress({ off = opts.no_progress })
    local done, err
    stop_requests.between("Stop before the next instance", function()
        done, err = restart.run(ctx, plan.list, {
            mode = opts.mode, wait_ms = opts.timeout,
            progress = function(inst, stage)
                progress:update(inst.dbid, ("%s: %s"):format(cluster.name(inst), stage))
            end,
        })
    end)
    progress:finish()
    for _, result in ipairs(done and done.results or {}) do
        term.info("%s: restarted in %s", cluster.name(result.inst), term.duration(result.took_ms))
    end
    if done and done.note then
        term.warn("content %d: not in sync yet: %s", plan.pair.content, done.note)
    end
    return done, err
end

local function as_json(done, err)
    local list = {}
    for i, result in ipairs(done and done.results or {}) do
        list[i] = { dbid = result.inst.dbid, content = result.inst.content,
                    took_ms = result.took_ms }
    end
    return { restarted = mr.json_array(list), note = done and done.note,
             error = err and tostring(err) }
end

local function run(ctx, opts, word)
    -- What an earlier run has left half-way comes first.
    local unfinished = opts.dry_run and 0 or handover_resume.all(ctx)
    local plan, err = plan_of(ctx, opts, word)
    if not plan then
        return nil, err
    end
    print_plan(plan, opts)
    local done
    if not opts.dry_run then
        local go, code = term.confirm("Continue with the restart", opts.yes)
        if not go then
            return code
        end
        done, err = carry_out(ctx, plan, opts)
    end
    if opts.json then
        term.json(as_json(done, err))
    end
    if err then
        return nil, err
    end
    return unfinished == 0 and 0 or 1
end

return {
    summary = "restart the instances of a content, or one of them",
    usage = "CONTENT | --dbid N [-M smart|fast|immediate] [-t SECONDS] [options]",
    description = [[
Restarts the mirror, waits until it streams again, then restarts the primary, so that settings that
need a restart take effect; with --dbid that instance alone. The watcher is told that this is no
failure. While a mirror is away, commits on its primary wait for it; while a primary is away, its
clients are refused: commonly for less than a second each. A mirror does not start with less than
its primary has of max_connections and its like: to lower those restart the primary first, --dbid.

A primary that does not come up again, for a setting that is wrong, is failed over by the watcher
like any other. What a killed run has stopped is started again by the watcher, or by the next
restart, recoverseg or start; then run it again. Ctrl-C and SIGTERM stop it between two instances.

The coordinator is restarted with the whole cluster, by moonrise stop -r; its standby by --dbid.]],
    examples = [[
  moonrise restart 0               mirror and primary of content 0
  moonrise restart --dbid 5 -a     that one, without a question]],
    arguments = 1,
    options = {
        { key = "dbid", long = "dbid", arg = "N", kind = "int", min = 1, max = 32767,
          help = "this instance alone" },
        { key = "mode", short = "M", arg = "MODE", default = "fast",
          help = "smart: only when no client is connected; fast (default):\n" ..
              "ends their sessions; immediate: without a checkpoint" },
        { key = "timeout", short = "t", arg = "SECONDS", kind = "duration", min = 1000,
          max = 600000, default = 120000, help = "how long a stop may take (default 120)" },
        { key = "no_progress", long = "no-progress", help = "no progress" },
    },
    check = check,
    main = function(opts, rest)
        return session.with(opts, function(ctx)
            return run(ctx, opts, rest[1])
        end)
    end,
}
