--- Benchmarks of copies from another host: through a private sshd of 127.0.0.1, against rsync as
--- Greenplum runs it, against pg_basebackup (over plain TCP), over a slow link, and of one that was
--- killed. Ours and theirs take turns.
local mr = require("moonrise")
local copies = require("copies")
local measure = require("measure")

local M = {}

local SLOW_MEGABYTES = 640
local SLOW_BYTES = 12.5e6
local SLOW_DELAY_MS = 10
local START_MS = 20000
local run, timed = measure.run, measure.timed

local SSHD = [[
ListenAddress 127.0.0.1
Port %d
HostKey %s/host_key
UsePAM no
StrictModes no
PidFile none
AuthorizedKeysFile %s/ssh/id_ed25519.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
]]

local CLIENT = [[
Host box
  HostName 127.0.0.1
  Port %d
Host slow
  HostName 127.0.0.1
  Port %d
Host *
  IdentityFile %s/id_ed25519
  UserKnownHostsFile %s/known_hosts
]]

-- A program in the background; what it says goes to a file.
local function start(dir, argv)
    local script = 'log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null & echo $!'
    return tonumber((run({ "sh", "-c", script, "sh", dir .. "/log", unpack(argv) })))
end

local function await_port(port)
    local till = mr.clock() + START_MS
    local probe = ("exec 3<>/dev/tcp/127.0.0.1/%d"):format(port)
    while mr.check(mr.run({ "bash", "-c", probe }, {})).code ~= 0 do
        if mr.clock() > till then
            error("nothing listens on port " .. port, 0)
        end
        mr.sleep(50)
    end
end

-- An sshd, and a slow link to it: the hosts `box` and `slow` of the environment that it returns.
local function open_hosts(dir)
    local port, slow = mr.free_port(), mr.free_port()
    local ssh = dir .. "/ssh"
    mr.check(mr.make_dir(ssh))
    run({ "chmod", "700", ssh })
    run({ "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir .. "/host_key" })
    run({ "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh .. "/id_ed25519" })
    mr.check(mr.append_file(dir .. "/sshd_config", SSHD:format(port, dir, dir)))
    mr.check(mr.append_file(ssh .. "/config", CLIENT:format(port, slow, ssh, ssh)))
    local key = mr.check(mr.read_file(dir .. "/host_key.pub"))
    mr.check(mr.append_file(ssh .. "/known_hosts",
        ("[127.0.0.1]:%d %s[127.0.0.1]:%d %s"):format(port, key, slow, key)))
    local pids = {
        start(dir, { "tests/lib/run_sshd", dir }),
        start(dir, { copies.build_dir() .. "/bench/slow_link", tostring(slow), tostring(port),
            tostring(SLOW_BYTES), tostring(SLOW_DELAY_MS) }),
    }
    await_port(port)
    return { ssh = ssh, pids = pids }
end

local function with_hosts(megabytes, fn)
    return copies.with_directories(megabytes, function(source, target, dir)
        local hosts = open_hosts(dir)
        return measure.finally(function()
            return fn(source, target, hosts)
        end, function()
            for _, pid in ipairs(hosts.pids) do
                mr.kill(pid, "TERM")
            end
        end)
    end)
end

-- What patch_bench prints of one patch.
local function numbers_of(out)
    local numbers = {}
    for name, value in out:gmatch("(%a+) (%d+)") do
        numbers[name] = tonumber(value)
    end
    return numbers
end

local function patch_argv(kind, place, hosts, host)
    return { "env", "MOONRISE_SSH_DIR=" .. hosts.ssh, copies.tool(), kind, place.source,
             place.target, "0", host or "box", mr.executable }
end

local function patch(kind, place, hosts, host)
    local seconds, out = timed(patch_argv(kind, place, hosts, host))
    return seconds, numbers_of(out)
end

local function rsync(place, hosts, ...)
    local argv = { "rsync", "-a" }
    for _, option in ipairs({ ... }) do
        table.insert(argv, option)
    end
    for _, word in ipairs({ "-e", "ssh -F " .. hosts.ssh .. "/config",
        "box:" .. place.source .. "/", place.target }) do
        table.insert(argv, word)
    end
    return timed(argv)
end

local function compared(reset, place, hosts)
    local result, last = measure.alternate(copies.RUNS, function(seed)
        reset(seed)
        copies.warm(place.source, place.target)
    end, function()
        return patch("differential", place, hosts)
    end, function()
        return rsync(place, hosts, "--checksum", "--delete")
    end)
    copies.check_equal(place.source, place.target)
    result.peer = "rsync -a --checksum --delete -e ssh"
    result.bytes_moved, result.bytes_different = last.moved, last.different
    result.bytes_allowed = 1.1 * last.different + 16 * last.total / 8192
    return result
end

--- 1 % of the blocks changed at random, all in the page cache.
---@return table result
function M.differential_ssh()
    return with_hosts(copies.MEGABYTES, function(source, target, hosts)
        return compared(function(seed)
            copies.spoil(target, seed)
        end, { source = source, target = target }, hosts)
    end)
end

--- Nothing changed, all in the page cache.
---@return table result
function M.identical_ssh()
    return with_hosts(copies.MEGABYTES, function(source, target, hosts)
        return compared(function() end, { source = source, target = target }, hosts)
    end)
end

local function empty(target)
    run({ "rm", "-rf", target })
    mr.check(mr.make_dir(target))
end

--- All of it, flushed, into an empty directory.
---@return table result
function M.full_ssh()
    return with_hosts(copies.MEGABYTES, function(source, target, hosts)
        local place = { source = source, target = target }
        local result, last = measure.alternate(copies.RUNS, function()
            empty(target)
            run({ "sync" })
        end, function()
            return patch("full", place, hosts)
        end, function()
            return rsync(place, hosts) + timed({ "sync", "-f", target })
        end)
        copies.check_equal(source, target)
        result.peer = "rsync -a -e ssh, flushed"
        result.bytes_moved, result.bytes_different = last.moved, last.different
        return result
    end)
end

--- All of a running server, checkpoint and backup session included, against pg_basebackup over TCP
--- of the same machine, which does not encrypt.
---@return table result
function M.full_ssh_basebackup()
    return with_hosts(8, function(_, target, hosts)
        local result, last = copies.full_of_server(target, function(source, copy)
            source.host, source.program = "box", mr.executable
            return copies.ours_full(source, copy, { "env", "MOONRISE_SSH_DIR=" .. hosts.ssh })
        end, "127.0.0.1")
        result.peer = "pg_basebackup -X stream -c fast, TCP"
        result.bytes_moved, result.bytes_different = last.bytes_moved, last.bytes_different
        return result
    end)
end

--- A full copy over 100 Mbit/s with 20 ms there and back, against the time that the link takes for
--- the bytes that were sent over it.
---@return table result
function M.slow_link()
    return with_hosts(SLOW_MEGABYTES, function(source, target, hosts)
        empty(target)
        local seconds, numbers = patch("full", { source = source, target = target }, hosts, "slow")
        copies.check_equal(source, target)
        return { runs = 1, ours = seconds, theirs = numbers.moved / SLOW_BYTES, unit = "s",
                 peer = "the link alone, for these bytes", bytes_moved = numbers.moved,
                 bytes_different = numbers.different, plain = numbers.total / SLOW_BYTES }
    end)
end

--- A full copy that was killed at 90 %, run again, against a whole one.
---@return table result
function M.resume_full()
    return with_hosts(copies.MEGABYTES, function(source, target, hosts)
        local place = { source = source, target = target }
        empty(target)
        local whole = patch("full", place, hosts)
        local hashing = patch("differential", place, hosts)
        empty(target)
        mr.check(mr.run(patch_argv("killed", place, hosts), { timeout_ms = measure.PATIENCE_MS }))
        local seconds, numbers = patch("differential", place, hosts)
        copies.check_equal(source, target)
        return { runs = 1, ours = seconds, theirs = whole, unit = "s", peer = "a whole one",
                 hashing = hashing, bytes_moved = numbers.moved,
                 bytes_different = numbers.different }
    end)
end

return M
