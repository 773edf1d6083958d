--- A real sshd that an ordinary user runs, and the ~/.ssh of somebody who may log in there: another
--- "host" for specs. Whoever logs in has the environment that the spec wants (`env`), so that a
--- host may have a home of its own.
local ffi = require("ffi")

local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}

local RUN = place_of.top() .. "/tests/lib/run_sshd"

ffi.cdef("int setenv(const char *name, const char *value, int overwrite);")

--- Why specs that need an sshd cannot run here, or nil.
---@return string? reason
function M.missing()
    local pipe = assert(io.popen(place_of.quote(RUN)))
    local reason = pipe:read("*l")
    pipe:close()
    return reason
end

--- The lines of an sshd_config.
---@param spec {dir: string, address: string, port: integer, env: table<string, string>?, more: string?}
--- dir holds host_key and authorized_keys
---@return string
function M.config(spec)
    local lines = {
        "ListenAddress " .. spec.address, "Port " .. spec.port,
        "HostKey " .. spec.dir .. "/host_key",
        "AuthorizedKeysFile " .. spec.dir .. "/authorized_keys",
        "UsePAM no", "StrictModes no", "PidFile none", "PasswordAuthentication no",
        "KbdInteractiveAuthentication no", spec.more,
    }
    local env = {}
    for name, value in pairs(spec.env or {}) do
        env[#env + 1] = ("%s=%s"):format(name, value)
    end
    -- Of several such lines sshd takes the first.
    lines[#lines + 1] = #env > 0 and "SetEnv " .. table.concat(env, " ") or nil
    return table.concat(lines, "\n") .. "\n"
end

--- The directory that is ~/.ssh for the programs of a place, and for this process from now on.
---@param place table
---@return string dir
function M.client(place)
    local dir = place:path("home/.ssh")
    if not io.open(dir .. "/id_ed25519") then
        place:must({ "mkdir", "-p", "-m", "700", dir })
        place:must({ "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir .. "/id_ed25519" })
    end
    ffi.C.setenv("MOONRISE_SSH_DIR", dir, 1)
    return dir
end

local Sshd = {}
Sshd.__index = Sshd

--- Starts an sshd under an alias that programs of the place know it by.
---@param place table
---@param alias string
---@param options? {address: string?, port: integer?, env: table<string, string>?, more: string?}
---@return table sshd {alias, dir, port, program}
function M.start(place, alias, options)
    options = options or {}
    local client, dir = M.client(place), place:path("sshd-" .. alias)
    local spec = { dir = dir, address = options.address or "127.0.0.1", env = options.env,
                   port = options.port or place_of.free_port(), more = options.more }
    place:must({ "mkdir", "-m", "700", dir })
    place:must({ "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir .. "/host_key" })
    place:must({ "cp", client .. "/id_ed25519.pub", dir .. "/authorized_keys" })
    place:write("sshd-" .. alias .. "/sshd_config", M.config(spec))
    place_of.append(client .. "/config", ("Host %s\n  HostName %s\n  Port %d\n"):format(alias,
        spec.address, spec.port))
    place_of.append(client .. "/known_hosts", ("[%s]:%d %s"):format(spec.address, spec.port,
        place_of.read(dir .. "/host_key.pub")))
    local sshd = setmetatable({ alias = alias, dir = dir, port = spec.port }, Sshd)
    -- Under a shell, which tests/lib/sweep knows by its environment: sshd overwrites its own.
    sshd.program = place:start({ "sh", "-c", 'setpriv --pdeathsig KILL "$@" & wait', "sh", RUN,
        dir })
    sshd.program:says("Server listening on", wait.SOON_S)
    return sshd
end

--- Ends it; sessions that are open stay.
function Sshd:stop()
    self.program:kill()
    wait.eventually("sshd to end", wait.SOON_S, function()
        return self.program:code()
    end)
end

return M
