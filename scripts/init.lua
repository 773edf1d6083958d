--- `moonrise init`: makes a cluster from its description, or out of servers that run.
local adopt = require("lib.adopt")
local adopt_plan = require("lib.adopt_plan")
local adopt_show = require("lib.adopt_show")
local adopt_undo = require("lib.adopt_undo")
local cluster = require("lib.cluster")
local config = require("lib.config")
local create = require("lib.create")
local create_plan = require("lib.create_plan")
local home = require("lib.home")
local mr = require("moonrise")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")

local function check(opts, rest)
    if opts.superuser and not opts.adopt then
        return "--superuser goes with --adopt"
    end
    return not rest[1] and "which cluster? The file that describes it is missing" or nil
end

local function report_all(problems)
    local code = 2
    for _, problem in ipairs(problems) do
        term.error(problem)
        code = problem.code == "usage" and code or 1
    end
    return code
end

local function copy_line(inst, report)
    local done, total = report.bytes_done or 0, report.bytes_total or 0
    return ("dbid %d (content %d): %s"):format(inst.dbid, inst.content, total == 0
        and "waiting for a checkpoint"
        or ("%s %s of %s"):format(report.stage or "", term.bytes(done), term.bytes(total)))
end

local function work(plan, opts, run, question)
    local progress = term.progress({ off = opts.no_progress })
    local options = {
        batch = opts.batch,
        stage = function(what)
            term.info("Making %s", what)
        end,
        progress = function(inst, report)
            progress:update(inst.dbid, copy_line(inst, report))
        end,
    }
    local ok, result, err = pcall(stop_requests.guard, question, function()
        return run(plan, options)
    end)
    progress:finish()
    if not ok then
        return nil, result
    end
    return result, err
end

local function undo(plan, err)
    term.error(err)
    term.info("Removing what was made")
    local problems = create.undo(plan)
    if #problems > 0 then
        report_all(problems)
        term.error("Not everything could be removed; run the same init again, or remove it by hand")
    else
        term.info("Everything is as before")
    end
    return 1
end

local function tell(plan, opts)
    local name, datadir = plan.config.name, plan.env.datadir
    for _, inst in ipairs(plan.instances) do
        if plan.out_of_sync[inst.dbid] then
            term.warn("%s: %s, not in sync: %s", cluster.name(inst),
                plan.adopted and "adopted" or "made", plan.out_of_sync[inst.dbid])
        end
    end
    if opts.json then
        term.json({ name = name, datadir = datadir, passfile = plan.env.passfile,
                    instances = plan.instances })
    end
    term.info("Cluster %s is %s and running", name, plan.adopted and "adopted" or "made")
    term.info("   export COORDINATOR_DATA_DIRECTORY=%s", datadir)
    term.info("   moonrise state        moonrise watch --daemon")
    return 0
end

local function run(plan, opts)
    create_plan.print(plan)
    if opts.dry_run then
        return 0
    end
    local go, code = term.confirm("Continue with the creation of the cluster", opts.yes)
    if not go then
        return code
    end
    local problems = create.remove_leftovers(plan)
    if #problems > 0 then
        return report_all(problems)
    end
    local made, err = work(plan, opts, create.run, "Stop, and remove what was made")
    if not made then
        return undo(plan, err)
    end
    return tell(plan, opts)
end

local function take_back(record)
    local problems, restarted = adopt_undo.undo(record)
    if #problems > 0 then
        report_all(problems)
        term.error("Not everything could be taken back; run the same init --adopt again")
        return 1
    end
    for _, inst in ipairs(restarted) do
        term.info("dbid %d was started anew; it logs to %s/log/postgresql.log, unless it " ..
            "collects its log itself", inst.dbid, inst.datadir)
    end
    -- What an order locks is never removed: one that is late would lock another file.
    term.info("Everything is as before; each directory keeps an unused moonrise.lock")
    return 0
end

-- What an adoption that was killed has left comes first: the plan is made of what is then.
local function clear_up(conf, opts)
    local record = adopt_undo.left(conf.name)
    if not record then
        return true
    end
    term.warn("An earlier adoption of %s was interrupted; what it did is taken back first",
        conf.name)
    if opts.dry_run then
        return false, 0
    end
    local go, code = term.confirm("Continue with taking it back", opts.yes)
    if go then
        code = take_back(record)
    end
    return go and code == 0, code
end

local function adopt_question(plan)
    local n = #plan.restarts
    return "Continue with the adoption of the cluster" ..
        (n > 0 and (", and the restart of %d instance%s"):format(n, n == 1 and "" or "s") or "")
end

-- The question may have stood for hours: what is done is what was shown.
local function still_so(plan, conf, opts)
    plan.agents:close()
    local now, problems = adopt_plan.make(conf, opts)
    if now and not adopt_show.same(plan, now) then
        now.agents:close()
        now, problems = nil, { mr.error("refused", "the servers are not as the plan shows them",
            { hint = "nothing was touched; run it again for the plan as it is now" }) }
    end
    return now, problems
end

local function carry_out_adoption(plan, opts)
    local done, err = work(plan, opts, adopt.run, "Stop, and take back what was done")
    if not done then
        term.error(err)
        term.info("Taking back what was done")
        local record = adopt_undo.left(plan.config.name)
        if record then
            take_back(record)
        end
        return 1
    end
    return tell(plan, opts)
end

local function run_adoption(plan, opts, conf)
    adopt_show.print(plan)
    if opts.dry_run then
        if opts.json then
            term.json(adopt_show.table(plan))
        end
        return 0
    end
    local go, code = term.confirm(adopt_question(plan), opts.yes)
    if not go then
        return code
    elseif opts.yes then
        return carry_out_adoption(plan, opts)
    end
    local now, problems = still_so(plan, conf, opts)
    if not now then
        return report_all(problems)
    end
    code = carry_out_adoption(now, opts)
    now.agents:close()
    return code
end

-- What is planned, and what is done about it.
local function by_plan(conf, opts)
    local plan, problems
    if opts.adopt then
        local clear, code = clear_up(conf, opts)
        if not clear then
            return code
        end
        plan, problems = adopt_plan.make(conf, opts)
    else
        plan, problems = create_plan.make(conf)
    end
    if not plan then
        return report_all(problems)
    end
    local result, err = (opts.adopt and run_adoption or run)(plan, opts, conf)
    plan.agents:close()
    return result, err
end

-- Only one init of a cluster at a time.
local function take_turn(conf)
    local dir = home.state_dir(conf.name)
    local lock
    local ok, err = mr.make_dir(dir)
    if ok then
        lock, err = mr.lock_file(dir .. "/init.lock")
    end
    if not lock and err.code == "busy" then
        return nil, mr.error(err.code,
            ("another init of the cluster %s is running"):format(conf.name), { cause = err })
    end
    return lock, err
end

local function main(opts, rest)
    local conf, err = config.load(rest[1])
    if not conf then
        return nil, err
    end
    local lock
    if not opts.dry_run then
        lock, err = take_turn(conf)
        if not lock then
            return nil, err
        end
    end
    local result
    result, err = by_plan(conf, opts)
    if lock then
        lock:close()
    end
    return result, err
end

return {
    summary = "make a cluster from its description",
    usage = "[options] cluster.lua",
    description = [[
Makes the cluster that a cluster.lua describes: servers with checksums on, the role and the password
that moonrise uses, the catalog, mirrors and standby, everything started and in sync. Existing
directories that are not empty are refused before anything is made; a failure on the way takes back
what was made; an init that was killed is simply run again.

With --adopt the primaries are servers that run, and so may mirrors and the standby be: standbys of
their primaries. What is missing is made by a copy. The plan lists what is found, each setting that
changes, and whether a server has to be restarted for one. What streams from the servers besides is
left alone; whatever else starts or manages them is named and refused. Configuration outside of a
data directory, as in /etc/postgresql, stays there; a copy gets those settings among its data.]],
    examples = [[
  moonrise init --dry-run cluster.lua   read the file, show what would be made
  moonrise init -a cluster.lua          make it without asking
  moonrise init --adopt cluster.lua     out of servers that run]],
    options = {
        { key = "adopt", long = "adopt", help = "take over servers that run" },
        { key = "superuser", long = "superuser", arg = "NAME",
          help = "whom to be on servers that are adopted, over their sockets (default: whose " ..
              "command this is); a password belongs in PGPASSFILE" },
        { key = "no_progress", long = "no-progress", help = "no progress" },
    },
    arguments = 1,
    check = check,
    main = main,
}
