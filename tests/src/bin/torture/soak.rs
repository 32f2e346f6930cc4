use crate::arguments::Arguments;
pub(crate) fn soak(_: &Arguments) -> anyhow::Result<()> {
    Ok(())
}
