--- moonrise deploy: installs this moonrise on other hosts, where agents of it are then started.
local agents = require("lib.agents")
local deploy = require("lib.deploy")
local mr = require("moonrise")
local term = require("lib.term")

local function check(_, rest)
    if #rest == 0 then
        return "which hosts? moonrise deploy HOST..."
    end
end

-- Agents of the other hosts come to this one, too: a mirror's copy is made from its primary.
local function with_this_one(hosts)
    local all = {}
    for _, host in ipairs(hosts) do
        if agents.is_local(host) then
            return hosts
        end
        table.insert(all, host)
    end
    table.insert(all, mr.whoami().hostname)
    return all
end

local function each(hosts, opts, fn)
    local results = mr.parallel(hosts, opts.hosts, function(host)
        local word, err = fn(host)
        return { word = word, err = err }
    end)
    local by_host = {}
    for index, host in ipairs(hosts) do
        by_host[host] = results[index]
    end
    return by_host
end

local SAYS = {
    none = "will be installed in " .. deploy.place,
    other = "will take the place of another build of this version in " .. deploy.place,
    same = "is there already, in " .. deploy.place,
}

-- What is to be done on each host; those that cannot be reached are told and left out.
local function plan(hosts, opts, package)
    local word_of, work = each(hosts, opts, function(host)
        return deploy.ask(host, package)
    end), {}
    for _, host in ipairs(hosts) do
        local asked = word_of[host]
        if asked.word then
            term.info("%s: moonrise %s %s", host, mr.version, SAYS[asked.word])
            work[#work + 1] = asked.word ~= "same" and host or nil
        else
            term.error(asked.err)
        end
    end
    return word_of, work
end

local function carry_out(work, opts, package, found)
    local done = each(work, opts, function(host)
        return deploy.install(host, package)
    end)
    for _, host in ipairs(work) do
        found[host] = done[host]
        if done[host].word then
            term.info("%s: installed, and it runs", host)
        else
            term.error(done[host].err)
        end
    end
end

local function finish(hosts, opts, found)
    local list, code = {}, 0
    for index, host in ipairs(hosts) do
        local err = found[host].err
        local is_there = not opts.dry_run or found[host].word == "same"
        list[index] = { host = host, done = not err and is_there, error = err and tostring(err) }
        code = err and 1 or code
    end
    if opts.json then
        term.json({ version = mr.version, place = deploy.place, hosts = mr.json_array(list) })
    end
    return code
end

local function main(opts, rest)
    local hosts = with_this_one(rest)
    local package, err = deploy.package()
    if not package then
        return nil, err
    end
    local found, work = plan(hosts, opts, package)
    if #work > 0 and not opts.dry_run then
        local go_on, code = term.confirm("Continue with the installation", opts.yes)
        if not go_on then
            return code
        end
        carry_out(work, opts, package, found)
    end
    return finish(hosts, opts, found)
end

return {
    summary = "install this moonrise on other hosts, and for their agents here",
    usage = "HOST... [-B N] [options]",
    description = [[
Sends the program, its scripts and policies by ssh, as the user who calls this, who must be let in
by a key. They go to ]] .. deploy.place .. [[ there, and ~/.local/bin/moonrise
leads to them unless that name is taken. Nothing leads to a build before it has arrived whole and
run once; the one before it stays, for agents that still run from it.

An agent on another host is started from there when that is of the same version as the caller, else
from the place where the caller's own program is (/usr/local/bin/moonrise after make install). So
hosts where root installs moonrise need no deploy.

This host gets it in the same place, since agents of the others come to it, too.
Libraries that are missing there are named with their Debian packages.]],
    examples = [[
  moonrise deploy sdw1 sdw2        two hosts, after a question
  moonrise deploy -a --json sdw3   for programs]],
    arguments = math.huge,
    check = check,
    main = main,
}
