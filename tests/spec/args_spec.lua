local args = require("lib.args")

local options = {
    { key = "errors", short = "e", help = "only errors" },
    { key = "verbose", short = "v", long = "verbose", help = "say more" },
    { key = "batch", short = "b", long = "batch", arg = "N", kind = "int", min = 1, max = 128,
      default = 64, help = "how many" },
    { key = "wait", long = "for", arg = "TIME", kind = "duration", help = "how long" },
    { key = "rate", long = "max-rate", arg = "SIZE", kind = "size", min = 1,
      help = "bytes a second" },
    { key = "policy", long = "policy", arg = "NAME=FILE", repeatable = true, help = "a policy" },
}

describe("args.parse", function()
    it("reads letters, joined letters and glued values", function()
        local result = assert(args.parse(options, { "-ev", "-b4" }))
        assert.is_true(result.errors)
        assert.is_true(result.verbose)
        assert.equal(4, result.batch)
    end)

    it("reads long options with = and with a blank", function()
        local given = { "--for=1h", "x", "--max-rate", "64M", "--", "-e" }
        local result, rest = args.parse(options, given)
        assert.equal(3600000, result.wait)
        assert.equal(64 * 2 ^ 20, result.rate)
        assert.same({ "x", "-e" }, rest)
        assert.is_nil(result.errors)
    end)

    it("takes a negative number for a content, not for an option", function()
        local _, rest = args.parse(options, { "-1", "-e" })
        assert.same({ "-1" }, rest)
    end)

    it("keeps defaults apart from what was given", function()
        local result = args.parse(options, {})
        assert.equal(64, result.batch)
        assert.is_nil(result.given.batch)
    end)

    it("collects repeatable options", function()
        local result = args.parse(options, { "--policy", "a=1", "--policy=b=2" })
        assert.same({ "a=1", "b=2" }, result.policy)
    end)

    local wrong = {
        { { "-z" }, "unknown option '-z'" },
        { { "--nope=1" }, "unknown option '--nope'" },
        { { "-b" }, "option -b wants a whole number (N)" },
        { { "-b", "four" }, "option -b wants a whole number, not 'four'" },
        { { "-b", "0" }, "option -b wants a value from 1 to 128, not '0'" },
        { { "--batch", "129" }, "option --batch wants a value from 1 to 128, not '129'" },
        { { "--max-rate", "0" }, "option --max-rate wants a value from 1 on, not '0'" },
        { { "--verbose=1" }, "option --verbose takes no value" },
        { { "--for", "soon" }, "option --for wants a time such as 90s, 5min or 1h, not 'soon'" },
    }
    for _, case in ipairs(wrong) do
        it("refuses " .. table.concat(case[1], " "), function()
            local result, problem = args.parse(options, case[1])
            assert.is_nil(result)
            assert.equal(case[2], problem)
        end)
    end

    it("leaves the caller's list alone", function()
        local argv = { "-ev" }
        args.parse(options, argv)
        assert.same({ "-ev" }, argv)
    end)
end)

describe("args.exclusive", function()
    it("names the two that cannot be combined", function()
        local result = args.parse(options, { "-e", "--for", "1s" })
        assert.equal("-e and --for cannot be combined",
            args.exclusive(result,
                { { "errors", "-e" }, { "rate", "--max-rate" }, { "wait", "--for" } }))
        assert.is_nil(args.exclusive(result, { { "errors", "-e" }, { "rate", "--max-rate" } }))
    end)
end)

describe("args.describe", function()
    it("puts every option on a line of its own", function()
        local lines = args.describe(options)
        assert.equal("  -e                         only errors", lines[1])
        assert.equal("  -b, --batch N              how many", lines[3])
        assert.equal("      --for TIME             how long", lines[4])
    end)

    it("wants a sentence that somebody answers for to be one", function()
        assert.is_nil(args.sentence("--reason", nil, 5))
        assert.is_nil(args.sentence("--reason", "J. D.", 5))
        for _, text in ipairs({ "", "  ", "too long", "a\nb", "\27[m" }) do
            assert.matches("%-%-reason wants one line of 1 to 5",
                args.sentence("--reason", text, 5))
        end
    end)
end)
