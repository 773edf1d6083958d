--- `moonrise movemirrors`: mirrors go to other directories, ports or hosts.
local args = require("lib.args")
local cluster = require("lib.cluster")
local copy_line = require("lib.copy_line")
local copy_options = require("lib.copy_options")
local move = require("lib.move")
local move_mirrors = require("lib.move_mirrors")
local mr = require("moonrise")
local proceed = require("lib.proceed")
local separately = require("lib.separately")
local session = require("lib.session")
local tablespaces = require("lib.tablespaces")
local tell_skipped = require("lib.tell_skipped")
local term = require("lib.term")

local options = args.joined({
    { key = "input", short = "i", long = "input", arg = "FILE",
      help = "which mirrors move, and where to: a line for each" },
}, copy_options.copies)

local function check(opts)
    if not opts.input then
        return "which mirrors, and where to? -i FILE says it"
    end
    local _, problem = tablespaces.parse(opts.tablespaces)
    return problem
end

local function run_entry(ctx, entry, opts, progress)
    local began, key = mr.clock(), entry.pair.mirror.dbid
    local target = entry.failed and entry.failed.target or entry.pair.mirror
    return move_mirrors.move(ctx, entry, {
        max_rate = entry.failed and entry.failed.max_rate,
        tablespaces = tablespaces.parse(opts.tablespaces),
        progress = function(report)
            progress:update(key, copy_line(target, began, report))
        end })
end

local function carry_out(ctx, plan, opts)
    separately.run(plan.entries, opts, {
        question = "Stop the moves that are not finished", host_of = move_mirrors.host_of,
        run = function(entry, progress)
            return run_entry(ctx, entry, opts, progress)
        end })
end

-- What came of one: whether everything is as it was asked for.
local function report_entry(ctx, entry)
    local pair = ctx.cat:pair(entry.pair.content) or entry.pair
    if not entry.numbers then
        term.error(entry.err)
        term.warn("%s: not moved", cluster.name(entry.pair.mirror))
        move_mirrors.clear_up(ctx, entry)
        return false
    elseif pair.mirror.mode ~= "s" then
        term.warn("%s: moved, not in sync yet; the watcher sees to it", cluster.name(pair.mirror))
    else
        term.info("%s: moved in %s, in sync", cluster.name(pair.mirror),
            term.duration(entry.numbers.took_ms))
    end
    return not entry.numbers.unfinished
end

local function move_all(ctx, plan, opts)
    carry_out(ctx, plan, opts)
    local failures = 0
    for _, entry in ipairs(plan.entries) do
        failures = failures + (report_entry(ctx, entry) and 0 or 1)
    end
    return failures
end

local function as_json(plan)
    local list, skipped = {}, {}
    for i, entry in ipairs(plan.entries) do
        local to, numbers = entry.to or move.place(entry.pair.mirror), entry.numbers or {}
        list[i] = { dbid = entry.pair.mirror.dbid, content = entry.pair.content,
            host = to.hostname, address = to.address, port = to.port, datadir = to.datadir,
            max_rate = entry.failed and entry.failed.max_rate,
            took_ms = numbers.took_ms, bytes_written = numbers.bytes_written,
            error = entry.err and tostring(entry.err) }
    end
    for i, entry in ipairs(plan.skipped) do
        skipped[i] = { dbid = entry.pair.mirror.dbid, reason = tostring(entry.err) }
    end
    return { moved = mr.json_array(list), skipped = mr.json_array(skipped) }
end

local function main(ctx, opts)
    local plan, err = move_mirrors.plan(ctx, opts)
    if not plan then
        return nil, err
    end
    tell_skipped(plan.skipped, function(entry)
        return cluster.name(entry.pair.mirror)
    end)
    if #plan.entries > 0 then
        move_mirrors.print(plan)
    elseif #plan.skipped == 0 then
        term.info("No mirrors to move")
    end
    return proceed(ctx, opts, { plan = plan, is_some = #plan.entries > 0,
        failures = #plan.skipped, question = "Continue with the move of the mirrors",
        act = move_all, as_json = as_json })
end

return {
    summary = "move mirrors to other places",
    usage = "-i FILE [options]",
    description = [[
Moves mirrors to other directories, ports or hosts, as a file says, one line for each: where it is,
a blank, and where it shall be.

  address|port|directory address|port|directory
  host|address|port|directory host|address|port|directory

A mirror that is up goes on where it is while a copy of its primary is made at the new place; only
when that has caught up they change over, for which the pair is without a mirror for a second or
two. Until then, and after a failure, everything is as it was. The old directory is removed once
the mirror is in sync at its new place. A mirror that is down is recovered to its new place.

A run that was interrupted anywhere is simply run again, with the same file, and goes on. Primaries
are not moved: moonrise switchover makes them mirrors first.]],
    examples = [[
  moonrise movemirrors -i moves            with, in the file moves:
    sdw2|7000|/data/mirror/gpseg0 sdw3|7000|/data/mirror/gpseg0
    sdw2|7001|/data/mirror/gpseg1 sdw2|7001|/disk2/mirror/gpseg1]],
    options = options,
    check = check,
    main = function(opts)
        return session.with(opts, function(ctx)
            return main(ctx, opts)
        end)
    end,
}
