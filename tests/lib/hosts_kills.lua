--- What is lost before a recovery between test hosts, and what is killed while it runs, for the
--- dice (tests/lib/dice.lua). A world is {lab, cluster, dice}, for a recovery also {run, source and
--- target: the hosts that it copies from and to}; the pair is content 0.
---
---     local hurt = hosts_kills.losses.gone(world)
---     local undo, met = hosts_kills.victims.feeder(world)

local M = {}

-- Of a host's list of processes; whoever looks is not found himself.
local AGENT, FEEDER, RELAY, SSHD = "moonrise agen[t] [^-]", "agent --fee[d]", "agent --rela[y]",
    "[s]shd: .*@"

local function nothing() end

-- With the mirror's data directory as $1.
local HURT = {
    -- Files are gone, and the WAL that was to be replayed.
    files = 'rm -rf "$1"/base/5 "$1"/pg_wal/* "$1"/pg_xact; rm -f "$1"/global/1260',
    -- Of the larger files every tenth page is not what was written.
    pages = [[
for file in $(find "$1/base" -type f -size +200k); do
    for page in $(seq 0 10 $(($(stat -c %s "$file") / 8192 - 1))); do
        printf 'not what was written' | dd of="$file" bs=8192 seek="$page" conv=notrunc
    done
done 2>/dev/null]],
    gone = 'rm -rf "$1"',
}

local function killed(how)
    return function(world)
        local server = world.cluster:mirror(0)
        server:kill()
        return how and function()
            world.cluster.place:must({ "sh", "-c", HURT[how], "sh", server.datadir })
        end or nothing
    end
end

local function power_off(host)
    host:power_off()
    return function()
        host:power_on()
    end
end

--- How a mirror is lost. What each gives is for the moment when it is on record as down.
M.losses = {
    killed = killed(),
    files = killed("files"),
    pages = killed("pages"),
    gone = killed("gone"),
    power = function(world)
        return power_off(world.lab[world.cluster:mirror(0).hostname])
    end,
}

local function one_of(where, pattern)
    return function(world)
        local host, pids = world.lab[world[where]], {}
        for pid in host:run({ "pgrep", "-f", pattern }).out:gmatch("%d+") do
            table.insert(pids, pid)
        end
        local pid = #pids > 0 and world.dice:pick(pids)
        return nothing, pid and host:run({ "kill", "-9", pid }).code == 0
    end
end

local function power_of(where)
    return function(world)
        return power_off(world.lab[world[where]]), true
    end
end

--- Who is killed. Each gives what undoes it once the recovery has ended, and whether there was
--- somebody to kill.
M.victims = {
    command = function(world)
        local runs = not world.run:code()
        world.run:kill("KILL")
        return nothing, runs
    end,
    agent = one_of("target", AGENT),
    feeder = one_of("source", FEEDER),
    sshd_of_source = one_of("source", SSHD),
    sshd_of_target = one_of("target", SSHD),
    power_of_source = power_of("source"),
    power_of_target = power_of("target"),
}

--- What works for a recovery on a host; one agent is the watcher's.
---@param host table
---@return string processes
function M.workers(host)
    local agents = host:run({ "pgrep", "-fa", AGENT }).out
    local _, count = agents:gsub("\n", "")
    return (count > 1 and agents or "") .. host:run({ "pgrep", "-fa", FEEDER }).out ..
        host:run({ "pgrep", "-fa", RELAY }).out
end

-- As somebody does who knows nothing of a recovery.
local START = [[
for patch in /data/*/moonrise.patch; do
    [ -e "$patch" ] || continue
    "$1" start -w -t 10 -D "${patch%/*}" -l /data/anyway.log >&2 && does=starts || does=refuses
    echo "${patch%/*} $does"
done]]

--- Starts the half-made copies on a host.
---@param host table
---@param bin string
---@return string said a line for each: its directory, and "starts" or "refuses"
function M.start_anyway(host, bin)
    return host:must({ "sh", "-c", START, "sh", bin .. "/pg_ctl" })
end

return M
