--- Test hosts, without root: each has its own network, file systems, process ids, host name,
--- System V memory and sshd; its disk is /data. They see each other through a switch, where every
--- link can be cut, delayed and slowed down. Names are those of /etc/hosts, and each knows the keys
--- of all.
---
---     -- in the setup, before anything is started
---     local lab, why = hosts.open(place, { "cdw", "sdw1", "sdw2" }, { disks = { sdw2 = "64m" } })
---     lab.sdw1:must({ "ssh", "sdw2", "hostname" })
---     local mend = lab:cut("sdw1", "sdw2")              -- silence: no answer, no error
---     lab.sdw2:power_off()
---     lab.sdw2:power_on()
---
--- Whoever is on a host is the spec's user. The spec's own directory is there under its own path,
--- and so is this tree. A power-off ends each process at once and says nothing to anybody, but what
--- had been written is on the disk even if it had not been flushed: the page cache is this
--- machine's.

local hurt = require("tests.lib.hurt")
local namespace = require("tests.lib.namespace")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}
local Hosts, Host = {}, {}
Hosts.__index = Hosts
Host.__index = Host

local SSHD = "/usr/sbin/sshd"
local BOOT_S = 30

-- Each host has a net of its own, in which the switch is its neighbour.
local ADDRESS, SWITCH = "10.9.%d.2", "10.9.%d.1"

-- The order in which the switch looks at its rules.
local CUTS, RELAYED_ALREADY, LINKS = 10, 20, 30

-- What a link of its own is sent through: a net with a relay that does not exist as a neighbour.
local RELAYED, RELAY, RELAY_MAC = "10.8.%d.1/24", "10.8.%d.2", "02:00:00:00:00:01"
local TABLES = 1000

local R = namespace.rights
local BOOT_RIGHTS = { R.SYS_ADMIN, R.SYS_CHROOT }
local ENTER_RIGHTS = { R.SYS_ADMIN, R.SYS_CHROOT, R.SYS_PTRACE }

local quote = place_of.quote

local function must(commands)
    local done, why = namespace.ip(commands)
    assert(done, why)
end

local function set(name, value)
    local file = assert(io.open("/proc/sys/net/ipv4/" .. name, "w"))
    file:write(value)
    assert(file:close())
end

local UNSHARE = { "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child" }

-- A host's file systems and processes, of a host on which nothing runs.
local function try_unshare()
    local said = namespace.with_rights(BOOT_RIGHTS, function()
        local pipe = assert(io.popen(table.concat(UNSHARE, " ") .. " --mount-proc true 2>&1"))
        local text = pipe:read("*a")
        pipe:close()
        return text
    end)
    assert(said == "", said)
end

local function connect()
    try_unshare()
    namespace.new_network()
    set("ip_forward", "1")
    must({ "link set lo up" })
end

local entered

--- Makes the switch; this process is there from now on.
---@return boolean entered
---@return string? why it cannot be done here
function M.enter()
    if entered then
        return true
    elseif not place_of.read(SSHD) then
        return false, "no sshd here (package openssh-server)"
    end
    local made, why = namespace.enter()
    if made then
        made, why = pcall(connect)
        why = not made and "no hosts for an ordinary user here: " .. tostring(why) or nil
    end
    entered = made
    return made, why
end

local function user()
    local pipe = assert(io.popen("id -un; id -u; id -g"))
    local found = { name = pipe:read("*l"), uid = pipe:read("*l"), gid = pipe:read("*l") }
    pipe:close()
    return found
end

-- A key of the user's that every host takes, and a key of each host that every user knows.
local KEYS = [[
set -eu
cd "$1"
shift
ssh-keygen -q -t ed25519 -N '' -C lab -f id_ed25519
for host; do
    ssh-keygen -q -t ed25519 -N '' -C "$host" -f "$host/host_key"
    printf '%s %s\n' "$host" "$(cat "$host/host_key.pub")" >>known_hosts
done
for host; do
    mkdir -m 700 "$host/home/.ssh"
    cp id_ed25519 id_ed25519.pub known_hosts "$host/home/.ssh"
    cp id_ed25519.pub "$host/home/.ssh/authorized_keys"
done
]]

local SSHD_CONFIG = [[
HostKey %s
AuthorizedKeysFile .ssh/authorized_keys
PidFile none
UsePAM no
StrictModes no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
]]

local function write_etc(lab)
    local place, who = lab.place, lab.user
    local names = { "127.0.0.1 localhost", "::1 localhost" }
    for _, host in ipairs(lab.hosts) do
        table.insert(names, host.address .. " " .. host.name)
    end
    return {
        hosts = place:write("hosts/hosts", table.concat(names, "\n") .. "\n"),
        ["nsswitch.conf"] = place:write("hosts/nsswitch.conf",
            "hosts: files\npasswd: files\ngroup: files\n"),
        passwd = place:write("hosts/passwd", ("root:x:0:0::/:/bin/sh\n%s:x:%s:%s::%s:/bin/sh\n")
            :format(who.name, who.uid, who.gid, lab.home)),
        group = place:write("hosts/group", ("root:x:0:\n%s:x:%s:\n"):format(who.name, who.gid)),
    }
end

-- What is mounted where on a host, in this order.
local function binds(host, etc)
    local list = { { host.disk, "/data" }, { host:path("home"), host.lab.home },
        { host.place.dir, host.place.dir }, { place_of.top(), place_of.top() } }
    for name, file in pairs(etc) do
        table.insert(list, { file, "/etc/" .. name })
    end
    return list
end

local function write_boot(host, etc)
    local config = host.place:write("hosts/" .. host.name .. "/sshd_config",
        SSHD_CONFIG:format(host:path("host_key")))
    local lines = { ("return { name = %q, root = %q, binds = {"):format(host.name,
        host:path("root")) }
    for _, bind in ipairs(binds(host, etc)) do
        table.insert(lines, ("{ %q, %q },"):format(bind[1], bind[2]))
    end
    table.insert(lines, ("}, programs = { %q }, sshd = %q }"):format(place_of.moonrise(),
        ("%s -f %s -E %s"):format(SSHD, quote(config), quote(host:path("sshd.log")))))
    host.boot = host.place:write("hosts/" .. host.name .. "/boot.lua", table.concat(lines, "\n"))
end

local function describe(lab, name, options)
    lab.count = lab.count + 1
    local host = setmetatable({ lab = lab, place = lab.place, name = name, number = lab.count,
        address = ADDRESS:format(lab.count), dir = lab.place:path("hosts/" .. name) }, Host)
    host.disk = host:path("disk")
    lab.place:must({ "mkdir", "-p", host.disk, host:path("home"), host:path("root") })
    local size = options.disks and options.disks[name] or options.memory
    if size then
        namespace.tmpfs(host.disk, size)
    end
    lab[name] = host
    table.insert(lab.hosts, host)
end

--- Makes hosts, all of them up.
---@param place table
---@param names string[]
---@param options? {memory: string?, disks: table<string, string>?} sizes ("1g") of disks in memory,
--- where what is written need not outlive the test: of all, and of some
---@return table lab a host of each name, and `hosts`, all of them
function M.new(place, names, options)
    local lab = setmetatable({ place = place, hosts = {}, count = 0, links = 0, user = user() },
        Hosts)
    lab.home = "/home/" .. lab.user.name
    for _, name in ipairs(names) do
        describe(lab, name, options or {})
    end
    place:must({ "sh", "-c", KEYS, "sh", place:path("hosts"), unpack(names) })
    local etc = write_etc(lab)
    for _, host in ipairs(lab.hosts) do
        write_boot(host, etc)
        host:begin()
    end
    for _, host in ipairs(lab.hosts) do
        host:wait_up()
    end
    return lab
end

--- Makes hosts where that can be done, or says why not.
---@param place table
---@param names string[]
---@param options? table as M.new's
---@return table? lab
---@return string? why_not
function M.open(place, names, options)
    local made, why_not = M.enter()
    if not made then
        return nil, why_not
    end
    return M.new(place, names, options)
end

--- A file of the host's in the spec's place.
---@param name string
---@return string path
function Host:path(name)
    return self.dir .. "/" .. name
end

--- Where the spec finds a file that the host has under /data.
---@param path string of the host's
---@return string path
function Host:on_disk(path)
    return self.disk .. assert(path:match("^/data(/.*)$"), path .. " is not on the disk")
end

-- Joins a network of the host's own to the switch.
local function plug_in(host)
    local switch, network = SWITCH:format(host.number), namespace.other_network()
    must({
        ("link add %s type veth peer name eth0 netns %s"):format(host.name,
            namespace.network_path(network)),
        ("address add %s/24 dev %s"):format(switch, host.name),
        ("link set %s up"):format(host.name),
    })
    namespace.inside(network, function()
        set("ip_unprivileged_port_start", "0")
        must({ "link set lo up", ("address add %s/24 dev eth0"):format(host.address),
            "link set eth0 up", "route add default via " .. switch })
    end)
    return network
end

local function luajit(words)
    return { "env", "LUA_PATH=" .. place_of.top() .. "/?.lua", "luajit", unpack(words) }
end

local function script(name)
    return place_of.top() .. "/tests/lib/" .. name
end

-- Starts its first process.
function Host:begin()
    local network = plug_in(self)
    self.program = namespace.inside(network, function()
        return namespace.with_rights(BOOT_RIGHTS, function()
            local words = { unpack(UNSHARE) }
            for _, word in ipairs(luajit({ script("host_first.lua"), self.boot })) do
                table.insert(words, word)
            end
            return self.place:start(words)
        end)
    end)
    -- It ends with the last process that is in it.
    namespace.leave(network)
end

function Host:wait_up()
    wait.eventually(self.name .. " to be up", BOOT_S, function()
        local said = self.program:output()
        return said:find("up\n", 1, true) or self.program:code(), said
    end)
    assert(not self.program:code(), self.name .. " does not start: " .. self.program:output())
    self.first = assert(hurt.children(self.program.pid)[1])
end

--- Ends all that runs there, at once; nobody is told.
function Host:power_off()
    must({ ("link set %s down"):format(self.name) })
    place_of.kill(self.first, "KILL")
    self.program:wait(BOOT_S)
    -- It may have gone already, with the network.
    namespace.ip({ ("link del %s"):format(self.name) })
    self.first = nil
end

--- Starts it again, with the disk as it was.
function Host:power_on()
    self:begin()
    self:wait_up()
end

-- From one to the other: all of it, or what belongs to a port of either.
local function selectors(from, to, port)
    local way = ("from %s to %s"):format(from.address, to.address)
    if not port then
        return { way }
    end
    return { ("%s ipproto tcp dport %d"):format(way, port),
        ("%s ipproto tcp sport %d"):format(way, port) }
end

--- Cuts the link between two hosts: what is sent over it vanishes, without an answer or an error.
---@param a string
---@param b string
---@param options? {one_way: boolean?, port: integer?} only what a sends to b; only connections to
--- this port of either
---@return fun() mend
function Hosts:cut(a, b, options)
    options = options or {}
    local ways = selectors(self[a], self[b], options.port)
    for _, way in ipairs(options.one_way and {} or selectors(self[b], self[a], options.port)) do
        table.insert(ways, way)
    end
    return self:rules(CUTS, ways, "blackhole")
end

--- Cuts a host off from all others.
---@param name string
---@return fun() mend
function Hosts:isolate(name)
    local mends = {}
    for _, host in ipairs(self.hosts) do
        if host.name ~= name then
            table.insert(mends, self:cut(name, host.name))
        end
    end
    return function()
        for _, mend in ipairs(mends) do
            mend()
        end
    end
end

-- Adds rules to those of the switch; what it returns takes them away, once.
function Hosts:rules(preference, ways, action)
    local function each(verb)
        local commands = {}
        for _, way in ipairs(ways) do
            table.insert(commands, ("rule %s pref %d %s %s"):format(verb, preference, way, action))
        end
        must(commands)
    end
    each("add")
    local mended
    return function()
        if not mended then
            mended = true
            each("del")
        end
    end
end

--- Makes the link between two hosts slower, longer or worse, both ways.
---@param a string
---@param b string
---@param options {mbit_s: number?, delay_ms: number?, loss: number?} bits per second and
--- milliseconds of each way, and the share of packets that are lost
---@return fun() mend
function Hosts:link(a, b, options)
    self.links = self.links + 1
    local near, far = "link" .. self.links, "relay" .. self.links
    must({
        ("link add %s type veth peer name %s"):format(near, far),
        ("link set %s up"):format(near), ("link set %s up"):format(far),
        ("address add %s dev %s"):format(RELAYED:format(self.links), near),
        ("neighbour add %s lladdr %s dev %s nud permanent"):format(RELAY:format(self.links),
            RELAY_MAC, near),
        ("route add default via %s dev %s table %d"):format(RELAY:format(self.links), near,
            TABLES + self.links),
    })
    local program = namespace.with_rights({ R.NET_ADMIN, R.NET_RAW }, function()
        return self.place:start(luajit({ script("relay.lua"), near, far,
            tostring(options.mbit_s or 0), tostring(options.delay_ms or 0),
            tostring(options.loss or 0) }))
    end)
    program:says("relaying", BOOT_S)
    local back = self:rules(RELAYED_ALREADY, { "iif " .. near }, "lookup main")
    local there = self:rules(LINKS, { selectors(self[a], self[b])[1],
        selectors(self[b], self[a])[1] }, "lookup " .. TABLES + self.links)
    return function()
        there()
        back()
        program:kill("KILL")
        must({ "link del " .. near })
    end
end

--- Stops its sshd and all sessions of it: connections are accepted, and nothing ever answers.
---@return fun() thaw
function Host:freeze_sshd()
    local pids = {}
    for pid in self:must({ "pgrep", "-x", "sshd" }):gmatch("%d+") do
        table.insert(pids, self:process(tonumber(pid)))
    end
    return hurt.freeze(pids)
end

local function entering(host, argv, env)
    local words = luajit({ script("host_enter.lua"), tostring(host.first), host.lab.home, "env",
        "-u", "LUA_PATH", "-u", "XDG_STATE_HOME", "-u", "MOONRISE_SSH_DIR",
        "HOME=" .. host.lab.home, "USER=" .. host.lab.user.name,
        "LOGNAME=" .. host.lab.user.name, "TMPDIR=/tmp", "PATH=/usr/local/bin:/usr/bin:/bin" })
    for name, value in pairs(env or {}) do
        table.insert(words, name .. "=" .. value)
    end
    for _, word in ipairs(type(argv) == "string" and { "sh", "-c", argv } or argv) do
        table.insert(words, word)
    end
    return words
end

--- Runs a program there to its end, as Place:run does.
---@param argv string[]|string a string is a shell's
---@param options? table
---@return {code: integer, out: string, err: string} result
function Host:run(argv, options)
    options = options or {}
    local words = entering(self, argv, options.env)
    return namespace.with_rights(ENTER_RIGHTS, function()
        return self.place:run(words, { stdin = options.stdin, timeout_s = options.timeout_s })
    end)
end

--- Like run, and raises with all that the program said unless it ends with code 0.
---@return string out
function Host:must(argv, options)
    local result = self:run(argv, options)
    if result.code ~= 0 then
        error(("%s: %s: exit code %d\n%s%s"):format(self.name, type(argv) == "string" and argv
            or table.concat(argv, " "), result.code, result.out, result.err), 2)
    end
    return result.out
end

--- Starts a program there in the background.
---@return table program of tests/lib/place.lua
function Host:start(argv, options)
    local words = entering(self, argv, options and options.env)
    local program = namespace.with_rights(ENTER_RIGHTS, function()
        return self.place:start(words)
    end)
    local outside = program.pid
    wait.eventually("a program on " .. self.name, BOOT_S, function()
        program.pid = hurt.children(outside)[1]
        return program.pid or program:code()
    end)
    return program
end

--- A server whose data directory is on the host's disk, for the spec, which reaches it by its
--- socket.
---@param datadir string the host's path
---@return table server of tests/lib/pg.lua
function Host:server(datadir)
    local server = pg.at(self.place, self:on_disk(datadir))
    server.host = server.host and self:on_disk(server.host)
    server.pid = function()
        local text = place_of.read(server.datadir .. "/postmaster.pid")
        return text and self:process(tonumber(text:match("^%d+")))
    end
    return server
end

-- Of the processes that have this id in some namespace, the one in that of the first process.
local FIND = [=[
space=$(readlink "/proc/$1/ns/pid")
for file in $(grep -lE "^NSpid:.*[[:space:]]$2\$" /proc/[0-9]*/status 2>/dev/null); do
    dir=${file%/status}
    [ "$(readlink "$dir/ns/pid")" != "$space" ] || echo "${dir#/proc/}"
done
]=]

--- The id that a process of the host has for the spec: nil when there is none.
---@param pid integer on the host
---@return integer? pid
function Host:process(pid)
    local found = self.first and namespace.with_rights({ R.SYS_PTRACE }, function()
        return self.place:must({ "sh", "-c", FIND, "sh", tostring(self.first), tostring(pid) })
    end)
    return tonumber(found or "")
end

return M
