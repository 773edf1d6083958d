--- `moonrise addmirrors`: mirrors for the segments that have none.
local add_mirrors = require("lib.add_mirrors")
local add_mirrors_plan = require("lib.add_mirrors_plan")
local args = require("lib.args")
local cluster = require("lib.cluster")
local copy_line = require("lib.copy_line")
local copy_options = require("lib.copy_options")
local mirror_file = require("lib.mirror_file")
local mr = require("moonrise")
local proceed = require("lib.proceed")
local recovery = require("lib.recovery")
local recovery_file = require("lib.recovery_file")
local separately = require("lib.separately")
local session = require("lib.session")
local tablespaces = require("lib.tablespaces")
local tell_skipped = require("lib.tell_skipped")
local term = require("lib.term")

local options = args.joined({
    { key = "offset", short = "p", arg = "OFFSET", kind = "int", min = -65535, max = 65535,
      default = 1000, help = "a mirror's port is its primary's and this (default 1000)" },
    { key = "locations", short = "m", arg = "FILE",
      help = "file with the directories in which those of the mirrors are\nmade, one a line" },
    { key = "spread", short = "s", help = "each mirror of a host's primaries on another host" },
    { key = "input", short = "i", arg = "FILE",
      help = "add the mirrors that this file names:\ncontent|address|port|directory" },
    { key = "output", short = "o", arg = "FILE", help = "write such a file, change nothing" },
}, copy_options.copies)

local function check(opts)
    for _, other in ipairs({ { "output", "-o" }, { "spread", "-s" }, { "locations", "-m" },
                             { "offset", "-p" } }) do
        local problem = args.exclusive(opts, { { "input", "-i" }, other })
        if problem then
            return problem
        end
    end
    if opts.output and (opts.max_rate or opts.max_rate_host or opts.tablespaces) then
        return "-o copies nothing: --max-rate and --tablespace-mapping do not go with it"
    elseif opts.yes and not opts.input and not opts.locations then
        return "-a asks nobody where the mirrors go: -m or -i says it"
    end
    local _, problem = tablespaces.parse(opts.tablespaces)
    return problem
end

-- Where directories are made: by the file of -m, or by who sits there.
local function locations_of(opts)
    return function(count)
        if opts.locations then
            return add_mirrors_plan.read_locations(opts.locations)
        elseif not mr.is_tty("stdin") then
            return nil, mr.error("usage", "where do the mirrors go? There is no terminal to ask on",
                { hint = "a file says it: -m with directories, or -i with all places" })
        end
        local list = {}
        while #list < count do
            mr.err(("Enter mirror segment data directory location %d of %d > "):format(#list + 1,
                count))
            local answer = mr.read_line()
            local location = answer and recovery_file.path(answer:match("^%s*(.-)%s*$"))
            if not answer then
                return nil, mr.error("usage", "nobody has said where the mirrors go",
                    { hint = "nothing was touched" })
            elseif location then
                table.insert(list, location)
            elseif answer:find("%S") then
                term.warn("'%s' is no absolute path", answer)
            end
        end
        return list
    end
end

local function write_file(ctx, opts)
    local places, seen = add_mirrors_plan.places(ctx, opts, locations_of(opts))
    if not places then
        return nil, seen
    end
    local ok, err = mr.write_file(opts.output, mirror_file.format(places, seen.instances), "0644")
    if not ok then
        return nil, err
    end
    term.info("Configuration file output to %s successfully", opts.output)
    return 0
end

local function run_entry(ctx, entry, opts, progress)
    local began = mr.clock()
    return add_mirrors.add(ctx, entry, {
        max_rate = entry.failed.max_rate, tablespaces = tablespaces.parse(opts.tablespaces),
        progress = function(report)
            progress:update(entry.pair.content, copy_line(entry.row, began, report))
        end })
end

local function carry_out(ctx, plan, opts)
    separately.run(plan.entries, opts, {
        question = "Stop the copies that are not finished", host_of = function(entry)
            return entry.pair.mirror.hostname
        end, run = function(entry, progress)
            return run_entry(ctx, entry, opts, progress)
        end })
end

-- Mirrors that are up and that nobody has armed yet.
local function bring_in_sync(ctx, plan, limit)
    mr.parallel(plan.behind, limit, function(pair)
        return recovery.bring_in_sync(ctx, pair)
    end)
end

-- What the catalog says in the end of those that are up.
local function report_sync(ctx, content)
    local pair = ctx.cat:pair(content)
    if pair and pair.mirror and pair.mirror.mode == "s" then
        term.info("%s: in sync", cluster.name(pair.mirror))
    elseif pair and pair.mirror then
        term.warn("%s: not in sync yet; the watcher sees to it", cluster.name(pair.mirror))
    end
end

-- What came of it; each mirror stands for itself.
local function report(ctx, plan)
    local failures = 0
    for _, entry in ipairs(plan.entries) do
        if entry.numbers then
            term.info("%s: added in %s, %s written", cluster.name(entry.row),
                term.duration(entry.numbers.took_ms), term.bytes(entry.numbers.bytes_written or 0))
            report_sync(ctx, entry.pair.content)
        else
            failures = failures + 1
            term.error(entry.err)
            add_mirrors.clear_up(ctx, entry)
        end
    end
    for _, pair in ipairs(plan.behind) do
        report_sync(ctx, pair.content)
    end
    return failures
end

local function add(ctx, plan, opts)
    carry_out(ctx, plan, opts)
    bring_in_sync(ctx, plan, opts.batch)
    local failures = report(ctx, plan)
    add_mirrors.finish(ctx)
    return failures
end

local function as_json(plan)
    local list, skipped = {}, {}
    for i, entry in ipairs(plan.entries) do
        local mirror, numbers = entry.row or entry.pair.mirror, entry.numbers or {}
        list[i] = { content = entry.pair.content, dbid = entry.row and entry.row.dbid,
            host = mirror.hostname, address = mirror.address, port = mirror.port,
            datadir = mirror.datadir, type = entry.type, max_rate = entry.failed.max_rate,
            took_ms = numbers.took_ms,
            bytes_written = numbers.bytes_written, error = entry.err and tostring(entry.err) }
    end
    for i, entry in ipairs(plan.skipped) do
        skipped[i] = { content = entry.pair.content, reason = tostring(entry.err) }
    end
    return { mirrors = mr.json_array(list), skipped = mr.json_array(skipped),
             left_out = mr.json_array(plan.left) }
end

local function main(ctx, opts)
    if opts.output then
        return write_file(ctx, opts)
    end
    local plan, err = add_mirrors_plan.make(ctx, opts, locations_of(opts))
    if not plan then
        return nil, err
    end
    tell_skipped(plan.skipped, function(entry)
        return ("content %d"):format(entry.pair.content)
    end)
    local is_some = #plan.entries + #plan.behind > 0
    if is_some or #plan.left > 0 then
        add_mirrors_plan.print(plan)
    elseif #plan.skipped == 0 then
        term.info("No mirrors to add: every segment has its mirror")
    end
    if not is_some and not opts.dry_run then
        add_mirrors.finish(ctx)
    end
    return proceed(ctx, opts, { plan = plan, is_some = is_some, failures = #plan.skipped,
        question = "Continue with add mirrors procedure", act = add, as_json = as_json })
end

return {
    summary = "add mirrors to segments that have none",
    usage = "[-p OFFSET] [-m FILE] [-s] | -i FILE [options], or -o FILE to write such a file",
    description = [[
Makes a mirror for every segment that has none: its primary goes on meanwhile, and is asked for a
copy of all it has; once the mirror streams and is in sync, commits wait for it and it takes over
when its primary is lost.

Where the mirrors go: all those of one host's primaries to the next host (group), or with -s each of
them to another one (spread), for which there must be more hosts than a host has primaries. Ports
are the primaries' with an offset. You are asked for as many directories as a host has primaries at
most (-m FILE names them, one a line; the same one may be named again); in each of them a mirror
gets a directory of its own, such as gpseg0.

Any other layout is a file, one line for each mirror:

  content|address|port|directory              0|sdw2|7000|/data/mirror/gpseg0
  content|host|address|port|directory         where the host is not called as its address

-o writes such a file by the rules above, to be edited and given to -i. A content that it does not
name stays without a mirror. To have a mirror somewhere else: moonrise movemirrors.

Mirrors that are done stay, whatever becomes of the others. A run that was interrupted anywhere is
simply run again and goes on.]],
    examples = [[
  moonrise addmirrors                         ask where, show the plan, ask, add
  moonrise addmirrors -s -p 500 -m dirs       spread; directories by a file
  moonrise addmirrors -o mirrors.conf         write the layout, to be edited
  moonrise addmirrors -a -i mirrors.conf      add what the file says, without questions]],
    options = options,
    check = check,
    main = function(opts)
        return session.with(opts, function(ctx)
            return main(ctx, opts)
        end)
    end,
}
