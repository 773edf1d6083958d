--- Error values.
local mr = require("moonrise")

describe("an error value", function()
    it("has its fields and prints itself", function()
        local cause = mr.error("connect", "no route")
        local err = mr.error("sql", "it failed", {
            hint = "try again", instance = "dbid 3", sqlstate = "57P03", cause = cause,
        })
        assert.same({ "sql", "it failed", "try again", "dbid 3", "57P03" },
            { err.code, err.message, err.hint, err.instance, err.sqlstate })
        assert.equals(cause, err.cause)
        assert.equals("it failed (try again)", tostring(err))
        assert.equals("no route", tostring(cause))
    end)

    it("refuses fields that it does not know, or of other types", function()
        local wrongs = { { hints = "x" }, { cause = "text" }, { hint = 1 }, { 1 }, "text" }
        for _, more in ipairs(wrongs) do
            local ok, raised = pcall(function()
                mr.error("io", "text", more)
            end)
            assert.is_false(ok)
            assert.matches("error_spec.lua:%d+: bad argument #3 to 'error'", raised)
        end
        assert.has_error(function()
            mr.error(1, "text")
        end)
    end)

    it("prints itself whatever was done to it", function()
        local err = mr.error("io", "text")
        err.message = nil
        assert.equals("unknown error", tostring(err))
        err.message = { "x" }
        assert.equals("unknown error", tostring(err))
    end)
end)

describe("check", function()
    it("gives back what it was given", function()
        assert.same({ 1, nil, 3, n = 3 }, (function(...)
            return { n = select("#", ...), ... }
        end)(mr.check(1, nil, 3)))
    end)

    it("raises the error itself", function()
        local err = mr.error("busy", "taken")
        for _, value in ipairs({ { nil, err }, { false, err } }) do
            local ok, raised = pcall(mr.check, value[1], err)
            assert.is_false(ok)
            assert.equals(err, raised)
        end
        local ok, raised = pcall(mr.check, nil)
        assert.is_false(ok)
        assert.matches("check failed", raised)
    end)
end)
