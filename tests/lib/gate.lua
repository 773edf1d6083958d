--- A gate in the catalog, for specs that kill somebody at a point of their own: whoever comes to
--- it, waits there inside a transaction.
---
---     local gate = gate_of.close(cluster, "insert on journal", "new.kind = 'promoted'")
---     gate:kill(cluster:start({ "recoverseg", "-a" }))

local wait = require("tests.lib.wait")

local M = {}
local Gate = {}
Gate.__index = Gate

local SOON_S = wait.SOON_S
local GATE = [[
create function public.gate() returns trigger language plpgsql as $$
begin
    if %s then
        perform pg_advisory_xact_lock(77);
    end if;
    return coalesce(new, old);
end $$;
create trigger gate before %s for each row execute function public.gate()]]
local AT_GATE = "from pg_locks where locktype = 'advisory' and objid = 77 and not granted"

--- Makes the gate, which is closed.
---@param cluster table
---@param event string a trigger's, e.g. "update on content_lease"
---@param condition string in SQL, of old and new
---@return table gate
function M.close(cluster, event, condition)
    cluster:catalog(GATE:format(condition, event))
    local keeper = cluster:session("moonrise")
    keeper:ask("select pg_advisory_lock(77)", SOON_S)
    return setmetatable({ cluster = cluster, keeper = keeper }, Gate)
end

--- Whether somebody waits at it.
---@return boolean
function Gate:reached()
    return self.cluster:catalog("select 1 " .. AT_GATE)[1] ~= nil
end

--- Kills a program when it has come to the gate, and takes that away.
---@param program table of tests/lib/place.lua
function Gate:kill(program)
    wait.patiently("the program to be at the gate", SOON_S, function()
        return self:reached(), program:output()
    end)
    program:kill("KILL")
    program:wait(SOON_S)
    self:remove()
end

--- Ends the session that waits, whose transaction leaves nothing, and takes the gate away, if it is
--- still there.
function Gate:remove()
    if self.removed then
        return
    end
    self.removed = true
    self.cluster:catalog("select pg_terminate_backend(pid) " .. AT_GATE)
    wait.eventually("the session at the gate to end", SOON_S, function()
        return not self:reached()
    end)
    self.keeper:close()
    self.cluster:catalog("drop function public.gate() cascade")
end

return M
