--- Chunks in a sandbox, called and judged.

local assert = require("luassert")
local mr = require("moonrise")

local M = {}

-- Far more than any limit of the specs, far less than an attack that works would take.
M.TOO_LONG_MS = 5000

---@param source string
---@param options? table of mr.sandbox
---@return Sandbox
function M.new(source, options)
    options = options or {}
    options.source, options.name = source, "attack.lua"
    return mr.check(mr.sandbox(options))
end

--- Calls the function that the source returns; raises when that takes much too long.
---@param source string
---@return any value nil and an Error when it failed
---@return Error?
function M.call(source, ...)
    local start = mr.clock()
    local value, err = M.new(source):call(nil, ...)
    local took = mr.clock() - start
    assert(took < M.TOO_LONG_MS, ("it took %g ms"):format(took))
    return value, err
end

--- The call fails with this code, and says where, and what when a pattern is given.
---@param code string
---@param source string
---@param pattern? string
function M.assert_code(code, source, pattern, ...)
    local value, err = M.call(source, ...)
    assert.is_nil(value)
    assert.equals(code, err and err.code, source)
    assert.matches("attack%.lua", err.message)
    if pattern then
        assert.matches(pattern, err.message)
    end
end

return M
