--- `moonrise recoverseg`: segment recovery and the return of every role to its place.
local mr = require("moonrise")
local args = require("lib.args")
local cluster = require("lib.cluster")
local copy_line = require("lib.copy_line")
local copy_options = require("lib.copy_options")
local handover = require("lib.handover")
local handover_resume = require("lib.handover_resume")
local move = require("lib.move")
local policy = require("lib.policy")
local promotion = require("lib.promotion")
local rebalance = require("lib.rebalance")
local recovery = require("lib.recovery")
local hba = require("lib.hba")
local hold = require("lib.hold")
local left_places = require("lib.left_places")
local recovery_plan = require("lib.recovery_plan")
local recovery_targets = require("lib.recovery_targets")
local separately = require("lib.separately")
local session = require("lib.session")
local spare_hosts = require("lib.spare_hosts")
local survivors = require("lib.survivors")
local tablespaces = require("lib.tablespaces")
local tell_skipped = require("lib.tell_skipped")
local term = require("lib.term")

local options = args.joined({
    { key = "full", short = "F", help = "full recovery: every block is copied" },
    { key = "differential", long = "differential",
        help = "compare all blocks, copy those that differ" },
    { key = "input", short = "i", arg = "FILE",
        help = "recover what this recovery file names, to where it says" },
    { key = "output", short = "o", arg = "FILE",
        help = "write a recovery file of what is down, and recover nothing" },
    { key = "spares", short = "p", arg = "HOST[,HOST...]",
        help = "recover what is down to spare hosts, each failed host to one" },
    { key = "replace_foreign", long = "replace-foreign",
        help = "with -F and -a: also replace a directory that belongs to another cluster" },
    { key = "rebalance", short = "r", help = "return every instance to its preferred role" },
    { key = "replay_lag", long = "replay-lag", arg = "SIZE", kind = "size",
      default = handover.MAX_LAG_BYTES,
      help = "with -r: largest replay lag of a mirror that is handed over (default 64MB)" },
    { key = "promote", long = "promote", arg = "DBID", kind = "int", min = 1, max = 32767,
      help = "after a double fault: promote this mirror in its lost primary's place" },
    { key = "accept_loss", long = "accept-loss", arg = "TEXT",
      help = "with --promote: who accepts that commits are lost, and why; it is recorded" },
    { key = "primary_is_gone", long = "primary-is-gone",
      help = "with --promote: its host does not answer, and you have seen that it is off" },
    { key = "policy", long = "policy", arg = "NAME=FILE", repeatable = true,
      help = "decide with this policy: recovery=FILE, rebalance=FILE" },
}, copy_options.copies)

-- What means nothing with the rest of the command line is not taken silently.
local function check_meaning(opts)
    local limited = opts.max_rate or opts.max_rate_host
    if opts.replace_foreign and not opts.full then
        return "--replace-foreign goes with -F"
    elseif opts.given.replay_lag and not opts.rebalance then
        return "--replay-lag goes with -r"
    elseif opts.rebalance and opts.tablespaces then
        return "-r copies nothing: --tablespace-mapping does not go with it"
    elseif opts.rebalance and limited then
        return "-r copies nothing: --max-rate does not go with it"
    elseif opts.promote and (opts.tablespaces or limited) then
        return "--promote copies nothing: --tablespace-mapping and --max-rate do not go with it"
    elseif opts.output and (opts.tablespaces or limited or opts.policy) then
        return "-o copies nothing: --tablespace-mapping, --max-rate and --policy do not go with it"
    elseif (opts.accept_loss or opts.primary_is_gone) and not opts.promote then
        return "--accept-loss and --primary-is-gone go with --promote"
    end
    return args.sentence("--accept-loss", opts.accept_loss, 500)
end

-- Each is a command of its own, or says where or how the others copy.
local EXCLUSIVE = {
    { { "full", "-F" }, { "differential", "--differential" } },
    { { "spares", "-p" }, { "input", "-i" }, { "rebalance", "-r" }, { "promote", "--promote" } },
    { { "output", "-o" }, { "input", "-i" }, { "rebalance", "-r" }, { "promote", "--promote" } },
    { { "output", "-o" }, { "differential", "--differential" } },
    { { "spares", "-p" }, { "differential", "--differential" } },
    { { "rebalance", "-r" }, { "differential", "--differential" } },
    { { "rebalance", "-r" }, { "full", "-F" } },
    { { "promote", "--promote" }, { "full", "-F" } },
    { { "promote", "--promote" }, { "differential", "--differential" } },
}

local function check(opts)
    for _, group in ipairs(EXCLUSIVE) do
        local problem = args.exclusive(opts, group)
        if problem then
            return problem
        end
    end
    local _, problem = nil, check_meaning(opts)
    if not problem then
        _, problem = tablespaces.parse(opts.tablespaces)
    end
    if not problem and opts.spares then
        _, problem = spare_hosts.parse(opts.spares)
    end
    if not problem then
        _, problem = policy.parse(opts.policy, opts.rebalance and "rebalance" or "recovery")
    end
    return problem
end

local function run_entry(ctx, entry, opts, progress)
    entry.began = mr.clock()
    local numbers, err = recovery.recover(ctx, entry, entry.type, {
        max_rate = entry.max_rate,
        accept_foreign = entry.foreign_system,
        tablespaces = tablespaces.parse(opts.tablespaces),
        progress = function(report)
            progress:update(entry.target.dbid, copy_line(entry.target, entry.began, report))
        end,
    })
    if not numbers then
        err.instance = err.instance or cluster.name(entry.target)
        return nil, err
    end
    progress:update(entry.target.dbid, ("%s: done in %s")
        :format(cluster.name(entry.target), term.duration(numbers.took_ms)))
    return numbers
end

-- The WAL that was taken along because the slot could not have held it back.
local function carried(result)
    return result.wal == "carried" and (", %s of WAL carried"):format(term.bytes(result.wal_bytes))
        or ""
end

-- What one run made of its plan; each instance stands for itself.
local function report(plan, results)
    local failures = 0
    for i, entry in ipairs(plan.entries) do
        local result = results[i].numbers
        if not result then
            failures = failures + 1
            term.error(results[i].err)
            term.warn("%s: recovery failed, its catalog row %s; run recoverseg again",
                cluster.name(entry.target), entry.moved and "has moved" or "is as before")
        else
            term.info("%s: recovered by %s in %s, %s written%s", cluster.name(entry.target),
                result.type, term.duration(result.took_ms), term.bytes(result.bytes_written or 0),
                carried(result))
        end
    end
    return failures
end

-- A primary that does not answer is somebody's work; whatever else is not so yet is the watcher's.
local function report_armed(plan, armed)
    local failures = 0
    for i, pair in ipairs(plan.behind) do
        local name, err = cluster.name(pair.mirror), armed[i].err
        if not err then
            term.info("%s: in sync again", name)
        elseif err.code == "connect" then
            failures = failures + 1
            term.error(mr.error(err.code, err.message, { cause = err,
                instance = err.instance or cluster.name(pair.primary),
                hint = "not in sync, so nobody is promoted: moonrise start starts what is down" }))
        else
            term.warn("%s: not in sync yet (%s); the watcher sees to it", name, tostring(err))
        end
    end
    return failures
end

local function as_json(plan, results, armed)
    local list = {}
    for i, entry in ipairs(plan.entries) do
        local done = results and results[i] or {}
        local result = done.numbers or {}
        table.insert(list, {
            dbid = entry.target.dbid, content = entry.content,
            type = result.type or entry.type, reason = entry.reason, max_rate = entry.max_rate,
            to = entry.from and move.place(entry.target),
            read_bytes = entry.price.read_bytes, error = done.err and tostring(done.err),
            bytes_written = result.bytes_written, bytes_different = result.bytes_different,
            took_ms = result.took_ms, wal = result.wal, wal_bytes = result.wal_bytes,
        })
    end
    local skipped = {}
    for _, entry in ipairs(plan.skipped) do
        table.insert(skipped, { dbid = entry.target.dbid, reason = tostring(entry.err) })
    end
    local behind = {}
    for i, pair in ipairs(plan.behind) do
        local err = armed and armed[i].err
        behind[i] = { dbid = pair.mirror.dbid, content = pair.content,
            in_sync = armed and not err or false, error = err and tostring(err) or nil }
    end
    local lost = {}
    for i, fault in ipairs(plan.double_faults) do
        lost[i] = { content = fault.content, survivors = fault.survivors }
    end
    return { recovered = mr.json_array(list), behind = mr.json_array(behind),
             skipped = mr.json_array(skipped), double_faults = mr.json_array(lost) }
end

-- One question for all, and one more for each directory that is somebody else's.
local function confirm(plan, opts)
    local go, code = term.confirm("Continue with segment recovery procedure", opts.yes)
    for _, entry in ipairs(plan.entries) do
        if go and entry.foreign_system then
            go, code = term.confirm(("Replace everything in %s, which belongs to another cluster")
                :format(entry.target.datadir), opts.yes)
        end
    end
    return go, code
end

-- What came of plan.entries, and of plan.behind, each with `numbers` or `err`. Each starts as soon
-- as its own copy is done.
local function carry_out(ctx, plan, opts)
    local jobs, first = {}, #plan.entries
    for i, entry in ipairs(plan.entries) do
        jobs[i] = { host = entry.target.hostname, run = function(progress)
            return run_entry(ctx, entry, opts, progress)
        end }
    end
    for i, pair in ipairs(plan.behind) do
        jobs[first + i] = { host = pair.mirror.hostname, run = function()
            return recovery.bring_in_sync(ctx, pair)
        end }
    end
    separately.run(jobs, opts, {
        question = "Stop the recoveries that are not finished", host_of = function(job)
            return job.host
        end, run = function(job, progress)
            return job.run(progress)
        end })
    return { unpack(jobs, 1, first) }, { unpack(jobs, first + 1) }
end

-- What was left by earlier runs, and whom the coordinators let in when somebody has moved; how much
-- of it could not be done.
local function tidy_up(ctx, plan)
    local contents, moved = {}, #plan.left > 0
    for _, place in ipairs(plan.left) do
        contents[place.content] = true
    end
    for _, entry in ipairs(plan.entries) do
        moved = moved or entry.from ~= nil
    end
    local problems = left_places.of_contents(ctx, contents)
    if not moved then
        return problems
    end
    local followed, err = hold.content(ctx, -1, "recover", "pg_hba.conf", function(lease)
        return hba.follow(ctx, -1, lease.token)
    end)
    if not followed then
        term.warn("the coordinators' pg_hba.conf does not follow yet: %s; the next moonrise " ..
            "recoverseg tries it again", tostring(err))
    end
    return problems
end

local function tell_left_out(plan)
    tell_skipped(plan.skipped, function(entry)
        return cluster.name(entry.target)
    end)
    for _, fault in ipairs(plan.double_faults) do
        recovery_plan.print_double_fault(fault)
        term.error(mr.error("refused", "primary and mirror are both lost: nothing is recovered", {
            instance = cluster.name(fault.pair.primary),
            hint = "moonrise start starts what can be started; a person may choose the mirror" }))
    end
    return #plan.skipped + #plan.double_faults
end

local function recover_all(ctx, opts)
    if opts.output then
        return recovery_targets.write(ctx, opts)
    end
    local targets, err = recovery_targets.of(ctx, opts)
    local plan
    if not err then
        plan, err = recovery_plan.make(ctx, opts, targets)
    end
    if not plan then
        return nil, err
    end
    local failures, results, armed = tell_left_out(plan), nil, nil
    local work = #plan.entries + #plan.behind
    if work == 0 and failures == 0 then
        term.info("No segments to recover")
    end
    if work + #plan.left > 0 then
        recovery_plan.print(plan)
    end
    if work + #plan.left > 0 and not opts.dry_run then
        local go, code = confirm(plan, opts)
        if not go then
            return code
        end
        results, armed = carry_out(ctx, plan, opts)
        failures = failures + report(plan, results) + report_armed(plan, armed)
            + tidy_up(ctx, plan)
    end
    if not opts.dry_run then
        move.tell_clients(ctx)
    end
    if opts.json then
        term.json(as_json(plan, results, armed))
    end
    return failures == 0 and 0 or 1
end

local function promoted(fault, opts)
    local chosen = fault.survivors and fault.survivors[2]
    if fault.serves then
        term.info("dbid %d is the primary and serves: there is nothing to do", opts.promote)
    else
        term.info("%s: promoted", cluster.name(fault.pair.mirror))
        term.info("%s: moonrise recoverseg brings it back as the mirror",
            cluster.name(fault.pair.primary))
    end
    if opts.json then
        term.json({ promoted = opts.promote, already = fault.serves or false,
            content = fault.content, accept_loss = opts.accept_loss, survivor = chosen })
    end
    return 0
end

-- A person chooses: what is left is shown, then it is asked.
local function promote(ctx, opts)
    local choice = { dbid = opts.promote, accept_loss = opts.accept_loss,
                     primary_is_gone = opts.primary_is_gone }
    local fault, err = promotion.plan(ctx, choice)
    if not fault or fault.serves then
        return fault and promoted(fault, opts), err
    end
    local chosen = fault.survivors[2]
    recovery_plan.print_double_fault(fault)
    term.info("Promotion plan: %s takes its primary's place", cluster.name(fault.pair.mirror))
    term.info("   It loses   %s", survivors.loss(chosen))
    if opts.accept_loss then
        term.info("   Accepted   %s", opts.accept_loss)
    end
    if opts.dry_run then
        return 0
    end
    local go, code = term.confirm("Continue with the promotion", opts.yes)
    if not go then
        return code
    end
    fault, err = promotion.run(ctx, fault.content, choice)
    return fault and promoted(fault, opts), err
end

-- What an earlier run has left half-way comes first: there is no plan for a pair without a primary.
local function main(ctx, opts)
    local unfinished = opts.dry_run and 0 or handover_resume.all(ctx)
    local run = opts.rebalance and rebalance.run or opts.promote and promote or recover_all
    local code, err = run(ctx, opts)
    return code == 0 and unfinished > 0 and 1 or code, err
end

return {
    summary = "recover failed instances, return roles to their places",
    usage = "[-F | --differential] [-i FILE | -p HOSTS] [-o FILE] | -r | --promote DBID",
    description = [[
Recovers every instance that the catalog calls down, in place: stops what is left of it, makes its
data equal to its primary's by moving the blocks that differ, starts it as the mirror and waits
until it streams. A run that was interrupted anywhere is simply run again and goes on.

-i FILE recovers what the file names, and nothing else. Each line is the place of an instance that
is down, host|address|port|datadir or address|port|datadir; a second place after a blank is where
it shall be from now on. A leading I|, D| or F| is the type of a recovery in place (I compares all
blocks as D does), -F or --differential that of the lines without one; to another place all is
copied. # begins a comment. -o FILE writes such a file. -p does it for all that is down: the
instances of each failed host go to one spare host, to the same directories and, where they are
free, ports.

An instance that gets another place is where it was until its copy streams; after a failure it
still is, and the same command goes on with the copy. Its old directory is sealed, so that nobody
starts it, and removed as soon as the new one is in sync, or when its host answers.

A directory that belongs to another cluster is left alone, unless -F is given and the question
about it is answered; with -a nobody is asked, and --replace-foreign says it.

A tablespace outside of the primary's data directory needs a place of its own on a mirror of the
same host: --tablespace-mapping names it once, later recoveries keep it.

Where primary and mirror of a pair are both lost, it shows for each how far it is and what promoting
it would lose, and does nothing: moonrise start starts what can be started. --promote DBID promotes
the mirror instead. One that is not in sync loses commits by that, so somebody has to accept it in
writing. The old primary is ended and marked first, or as soon as its host answers.

With -r it hands pairs over until every instance has its preferred role; nothing is copied. Ctrl-C
and SIGTERM stop it between two pairs: one that was begun is brought to an end. What a killed run
left half-way is finished or undone by the watcher, or by the next recoverseg or start.]],
    examples = [[
  moonrise recoverseg              plan, ask, recover what is down
  moonrise recoverseg -a --differential
  moonrise recoverseg -o FILE      write down what is down; edit it, then recoverseg -i FILE
  moonrise recoverseg -p sdw9      to a spare host
  moonrise recoverseg -r           return primaries and mirrors to their preferred roles
  moonrise recoverseg --promote 5 --accept-loss "ticket 17, J. Doe: sdw2 has burnt down"]],
    options = options,
    check = check,
    main = function(opts)
        return session.with(opts, function(ctx)
            ctx.policy_files = policy.parse(opts.policy)
            return main(ctx, opts)
        end)
    end,
}
